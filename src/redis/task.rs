//! A write on its way to the server: the command it is put in, and what the answers mean.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use redis::{Cmd, ServerError, ServerErrorKind, Value};

use super::ask::{DETOURS, Elsewhere, disagreement, unexpected};
use super::client::Client;
use super::connection::{is_passing, refused};
use super::node::Node;
use super::pipeline::STORE;
use super::store::{Placement, Write};
use crate::error::{Error, Kind, Result};
use crate::record;

/// Records at most in a call of the script that is shared: others wait for the server meanwhile, less than a millisecond.
const SHARED: usize = 256;

/// How a write is put to the server.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// RPUSH: the list's life needs no renewal.
    Push,
    /// RPUSHX: its life was renewed a moment ago; if the list is gone since, nothing happens, and `Script` follows.
    PushExisting,
    /// The script, by its hash, in a call with others: a call costs more than a write.
    Script,
    /// The script itself, in a call with others: the server does not know the hash.
    UnknownScript,
    /// The script itself, in a call of its own: the server must not be given the chance to say that it does not know it, or
    /// refused the shared call.
    WholeScript,
}

/// A write on its way.
pub struct Task<'a> {
    write: Write<'a>,
    key: String,
    form: Form,
    /// Whether the list's life is due to be renewed; a new list is given one anyhow.
    renews: bool,
    /// Whether it may take effect after the deadline: only where the server's clock is not what it was.
    at_any_time: bool,
    /// Sent at least once without an answer.
    in_doubt: bool,
    /// Lost since it was last sent.
    is_lost: bool,
    /// Whether there are others of its list, which must not overtake it.
    shares_list: bool,
    /// That of its key; 0 where there is no cluster.
    slot: u16,
    /// Who is to be asked the next time, if not who has the slot.
    asking: Option<Arc<Node>>,
    /// How often it was sent elsewhere.
    detours: u32,
    /// Why it is not done.
    setback: Option<Error>,
    /// Why it is not on the replicas that should have it, as the server said.
    lack: Option<Error>,
    /// The server's answer, or why there will be none.
    outcome: Option<Outcome>,
}

enum Outcome {
    Stored,
    /// The server's refusal.
    Refused(Error),
    /// The refusal of a server that may take it in a moment.
    NotReady(Error),
    /// No answer, for this reason.
    Failed(Error),
}

impl<'a> Task<'a> {
    pub fn new(write: Write<'a>, client: &Client) -> Self {
        let key = client.key(write.id);
        let renews = client.renewals.as_ref().is_some_and(|renewals| !renewals.is_fresh(&key));
        let form = match (write.placement, &client.renewals) {
            (Placement::At(_), _) => Form::Script,
            (Placement::Append, None) => Form::Push,
            (Placement::Append, Some(_)) if renews => Form::Script,
            (Placement::Append, Some(_)) => Form::PushExisting,
        };
        Task {
            write,
            form,
            renews,
            slot: client.slot(&key),
            key,
            at_any_time: false,
            in_doubt: false,
            is_lost: false,
            shares_list: false,
            asking: None,
            detours: 0,
            setback: None,
            lack: None,
            outcome: None,
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// The slot of its key; 0 where there is no cluster.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    pub fn write(&self) -> &Write<'a> {
        &self.write
    }

    /// Whether its outcome is known, or will never be.
    pub fn is_done(&self) -> bool {
        self.outcome.is_some()
    }

    /// Whether this is worth a line of its own in the log: that there was no connection has been logged already.
    pub fn is_news(&self) -> bool {
        match self.outcome {
            Some(Outcome::Stored) => false,
            Some(Outcome::Refused(_) | Outcome::NotReady(_)) => true,
            _ => self.in_doubt,
        }
    }

    /// Gives up, if it is not done: `cause` kept it from being settled.
    fn fail(&mut self, cause: &Error) {
        if !self.is_done() {
            // When time runs out because replicas lack, that says more.
            let cause = self.lack.take().unwrap_or_else(|| cause.clone());
            self.outcome = Some(Outcome::Failed(cause));
        }
    }

    /// Gives up, if it is not done: there is no time left.
    pub fn give_up(&mut self) {
        let cause = self.setback.take().unwrap_or_else(|| Error::new(Kind::Timeout, "no time is left"));
        self.fail(&cause);
    }

    /// Who is to be asked.
    pub fn route(&mut self, client: &Client, deadline: Instant) -> Result<Arc<Node>> {
        match &self.asking {
            Some(node) => Ok(node.clone()),
            None => client.route(&self.key, deadline),
        }
    }

    /// Why it is not done, if it is not and something is in the way.
    pub fn setback(&self) -> Option<&Error> {
        self.setback.as_ref().filter(|_| !self.is_done())
    }

    /// Something is in the way.
    fn set_back(&mut self, cause: &Error) {
        (self.setback, self.asking) = (Some(cause.clone()), None);
    }

    /// Takes back the refusal of a server that is not ready, such as one that loads its data, and returns it.
    pub fn retry_when_ready(&mut self) -> Option<Error> {
        match self.outcome.take() {
            Some(Outcome::NotReady(error)) => Some(error),
            outcome => {
                self.outcome = outcome;
                None
            }
        }
    }

    /// Time has passed: what was known of the list's life is not true any more.
    pub fn was_delayed(&mut self, client: &Client) {
        self.renews = client.renewals.is_some();
        if self.form == Form::PushExisting {
            self.form = Form::Script;
        }
    }

    /// What became of it.
    pub fn result(self) -> Result<()> {
        let id = self.write.id;
        let cause = match self.outcome {
            Some(Outcome::Stored) => return Ok(()),
            Some(Outcome::Refused(error) | Outcome::NotReady(error) | Outcome::Failed(error)) => error,
            None => Error::new(Kind::Unavailable, "it was not sent"),
        };
        // A refusal of the repetition says nothing of what was sent before.
        if self.in_doubt {
            let message = format!("request {id:?}: sent, but may or may not be stored: {cause}");
            return Err(Error::new(Kind::Uncertain, message));
        }
        Err(Error::new(cause.kind, format!("request {id:?}: not stored: {cause}")))
    }

    /// Whether replicas that should have it do not.
    pub fn lacks_replicas(&self) -> bool {
        self.lack.is_some()
    }

    /// It was sent, and the answer was lost for this reason.
    fn lost(&mut self, cause: &Error) {
        (self.in_doubt, self.is_lost) = (true, true);
        if self.write.placement == Placement::Append {
            self.fail(cause);
        }
    }

    /// If it was stored just now, the replicas do not have it for sure, for this reason: it is as good as lost.
    fn may_not_be_replicated(&mut self, cause: &Error) {
        if matches!(self.outcome, Some(Outcome::Stored)) {
            self.outcome = None;
            self.lost(cause);
        }
    }

    /// As [`Self::may_not_be_replicated`], where the server said that they do not.
    fn is_not_replicated(&mut self, cause: &Error) {
        if matches!(self.outcome, Some(Outcome::Stored)) {
            self.lack = Some(cause.clone());
            self.may_not_be_replicated(cause);
        }
    }

    /// It is sent. Returns how many records of it had been lost.
    fn sent(&mut self) -> u64 {
        (self.asking, self.setback) = (None, None);
        if std::mem::take(&mut self.is_lost) { self.write.records.len() as u64 } else { 0 }
    }

    /// Takes in the answer. If it is not done afterwards, the task wants to be put in another form.
    fn settle(&mut self, reply: &Value, client: &Client) {
        match reply {
            Value::Int(0) if self.form == Form::PushExisting => {
                self.form = Form::Script;
                // Whoever begins it anew in the meantime may give it no life.
                self.renews = true;
            }
            // Too late by a clock that has been put forward, for somebody is still waiting.
            Value::Nil => self.at_any_time = true,
            Value::Int(length) if *length > 0 => {
                if let (true, Some(renewals)) = (self.renews, &client.renewals) {
                    renewals.renewed(&self.key);
                }
                self.outcome = Some(Outcome::Stored);
            }
            Value::Int(answer) if *answer < 0 => self.outcome = Some(Outcome::Refused(self.gap(-answer - 1))),
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => {
                self.form = Form::UnknownScript;
            }
            Value::ServerError(error) if is_passing(error) => self.outcome = Some(Outcome::NotReady(refused(error))),
            Value::ServerError(error) => self.outcome = Some(Outcome::Refused(refused(error))),
            other => self.outcome = Some(Outcome::Refused(unexpected(other))),
        }
    }

    /// It was not executed, but sent elsewhere.
    fn detour(&mut self, elsewhere: &Elsewhere, reply: &Value) {
        self.detours += 1;
        match elsewhere {
            Elsewhere::Later(error) => self.setback = Some(error.clone()),
            _ if self.detours > DETOURS => self.setback = Some(disagreement(reply)),
            Elsewhere::ByMap => {}
            Elsewhere::Asking(node) => self.asking = Some(node.clone()),
        }
    }

    fn gap(&self, length: i64) -> Error {
        let records = if length == 1 { "record" } else { "records" };
        let index = match self.write.placement {
            Placement::At(index) => format!("token_index is {index}, but "),
            Placement::Append => String::new(),
        };
        let cause = "an earlier store failed, or Redis lost the list, or it has expired or been taken";
        Error::new(Kind::Gap, format!("{index}the list has {length} {records}: {cause}"))
    }

    /// Tasks of equal rank may share a call.
    pub fn rank(&self) -> (bool, usize, u16, bool) {
        match self.form {
            Form::Script | Form::UnknownScript => (false, self.write.records.len(), self.slot, self.renews),
            // Of the others, those of one key must stay in their order.
            _ => (true, 0, 0, false),
        }
    }

    /// Whether one command can store both.
    fn may_share_with(&self, other: &Self) -> bool {
        !self.rank().0
            && self.rank() == other.rank()
            && self.form == other.form
            && self.renews == other.renews
            && self.at_any_time == other.at_any_time
            && self.asking.is_some() == other.asking.is_some()
    }
}

/// Whether each write would be refused the same.
fn is_of_all(error: &ServerError) -> bool {
    error.kind() == Some(ServerErrorKind::NoScript) || is_passing(error)
}

/// Puts tasks of one key in the form that neither a forgotten script nor a missing list sends into another round, where
/// one of them could be overtaken by the next.
pub fn keep_order(tasks: &mut [Task<'_>]) {
    if tasks.len() < 2 {
        return;
    }
    let mut count = HashMap::with_capacity(tasks.len());
    for task in tasks.iter() {
        *count.entry(task.write.id).or_insert(0) += 1;
    }
    for task in tasks.iter_mut().filter(|task| count[task.write.id] > 1) {
        task.shares_list = true;
        if task.form != Form::Push {
            task.form = Form::WholeScript;
        }
    }
}

/// Those that are not done. A server of a cluster may send one of several commands elsewhere, and execute the next: there, of
/// each list the first one alone.
pub fn pending<'t, 'a>(tasks: &'t mut [Task<'a>], is_cluster: bool) -> impl Iterator<Item = &'t mut Task<'a>> {
    let mut lists = HashSet::new();
    tasks
        .iter_mut()
        .filter(|task| !task.is_done())
        .filter(move |task| !is_cluster || !task.shares_list || lists.insert(task.write.id))
}

/// Tasks that one command stores together.
pub struct Call<'c, 't, 'a>(&'c mut [&'t mut Task<'a>]);

/// Splits tasks into calls, in their order.
pub fn calls<'c, 't, 'a>(tasks: &'c mut [&'t mut Task<'a>]) -> Vec<Call<'c, 't, 'a>> {
    let alike = tasks.chunk_by_mut(|a, b| a.may_share_with(b));
    let split = |tasks: &'c mut [&'t mut Task<'a>]| {
        let most = (SHARED / tasks[0].write.records.len()).max(1);
        tasks.chunks_mut(most).map(Call)
    };
    alike.flat_map(split).collect()
}

impl Call<'_, '_, '_> {
    /// The command that stores them, unless it is `too_late` by the server's clock.
    pub fn command(&self, ttl_ms: u64, too_late: u64) -> Cmd {
        let first = &self.0[0];
        let mut command = match first.form {
            Form::Push => redis::cmd("RPUSH").arg(&first.key).take(),
            Form::PushExisting => redis::cmd("RPUSHX").arg(&first.key).take(),
            form => {
                let keys: Vec<&str> = self.0.iter().map(|task| task.key.as_str()).collect();
                let too_late = if first.at_any_time { 0 } else { too_late };
                STORE
                    .call(form != Form::Script, &keys, too_late)
                    .arg(ttl_ms)
                    .arg(u8::from(first.renews))
                    .arg(first.write.records.len())
                    .take()
            }
        };
        let mut text = Vec::with_capacity(record::MAX_LEN);
        for Task { write, form, .. } in &*self.0 {
            if !matches!(form, Form::Push | Form::PushExisting) {
                let index = match write.placement {
                    Placement::Append => -1,
                    Placement::At(index) => index as i64,
                };
                command.arg(index);
            }
            for metrics in write.records {
                text.clear();
                record::write(metrics, &mut text);
                command.arg(&text);
            }
        }
        command
    }

    /// Whether the server is to be told that it is known not to have the slot yet.
    pub fn is_asking(&self) -> bool {
        self.0[0].asking.is_some()
    }

    /// As [`Task::sent`], for all.
    pub fn sent(&mut self) -> u64 {
        self.0.iter_mut().map(|task| task.sent()).sum()
    }

    /// Takes in `node`'s answer to the command: an answer to each of its writes, or one that is for all.
    pub fn settle(&mut self, reply: &Value, node: &Node, client: &Client) {
        let tasks = &mut self.0;
        if let Some(elsewhere) = client.elsewhere(node, reply) {
            tasks.iter_mut().for_each(|task| task.detour(&elsewhere, reply));
            // While a slot is moved, some of its lists may be here and some there.
            if tasks.len() > 1 && matches!(elsewhere, Elsewhere::Later(_)) {
                tasks.iter_mut().for_each(|task| task.form = Form::WholeScript);
            }
            return;
        }
        match reply {
            Value::Array(answers) if answers.len() == tasks.len() => {
                tasks.iter_mut().zip(answers).for_each(|(task, answer)| task.settle(answer, client));
            }
            // Nothing was stored. It may be one key that the user has no right to: each write is to hear for itself.
            Value::ServerError(error) if tasks.len() > 1 && !is_of_all(error) => {
                tasks.iter_mut().for_each(|task| task.form = Form::WholeScript);
            }
            answer => tasks.iter_mut().for_each(|task| task.settle(answer, client)),
        }
    }

    /// The command was sent, and the answer was lost for this reason.
    pub fn lost(&mut self, cause: &Error) {
        self.0.iter_mut().for_each(|task| task.lost(cause));
    }

    /// Something is in the way of those that are not done, and they are given up where that `is_hopeless`.
    pub fn set_back(&mut self, cause: &Error, is_hopeless: bool) {
        for task in self.0.iter_mut().filter(|task| !task.is_done()) {
            task.set_back(cause);
            if is_hopeless {
                task.fail(cause);
            }
        }
    }

    /// What is in the way of any.
    pub fn setback(&self) -> Option<&Error> {
        self.0.iter().find_map(|task| task.setback())
    }

    /// Whether any may be attempted again at once.
    pub fn wants_another(&self) -> bool {
        self.0.iter().any(|task| !task.is_done() && task.setback.is_none())
    }

    /// Whether any may have been stored, which is not known.
    pub fn in_doubt(&self) -> bool {
        self.0.iter().any(|task| task.in_doubt && !task.is_done())
    }

    /// See [`Task::may_not_be_replicated`].
    pub fn may_not_be_replicated(&mut self, cause: &Error) {
        self.0.iter_mut().for_each(|task| task.may_not_be_replicated(cause));
    }

    /// See [`Task::is_not_replicated`].
    pub fn is_not_replicated(&mut self, cause: &Error) {
        self.0.iter_mut().for_each(|task| task.is_not_replicated(cause));
    }
}
