//! Storing: appends at most once, indexed records exactly once, a batch in one round trip.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use redis::{Cmd, ServerErrorKind, Value};

use super::client::{Client, unexpected};
use super::connection::refused;
use super::pipeline::{Pipeline, STORE};
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level};
use crate::metrics::Metrics;
use crate::record;

/// Where records go in their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Behind the last one, whatever its index.
    Append,
    /// The first one at this index, the others behind it. What is there already is replaced.
    At(u64),
}

/// Records of one request.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The request's id.
    pub id: &'a str,
    /// Where they go.
    pub placement: Placement,
    /// At least one.
    pub records: &'a [Metrics],
}

/// Writes at most that share a call of the script: others wait for the server meanwhile, less than a millisecond.
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

impl Form {
    /// Whether a call may be shared with others of the same form.
    fn is_shared(self) -> bool {
        matches!(self, Form::Script | Form::UnknownScript)
    }
}

/// A write on its way.
struct Task<'a> {
    write: Write<'a>,
    key: String,
    form: Form,
    /// Whether the list's life is due to be renewed; a new list is given one anyhow.
    renews: bool,
    /// Whether it may take effect after the deadline: only where the server's clock is not what it was.
    at_any_time: bool,
    /// Sent at least once without an answer.
    in_doubt: bool,
    result: Option<Result<()>>,
}

impl Client {
    /// Stores each write, all in one round trip; one result each. Blocks until the pool's timeout at most.
    ///
    /// An append whose answer is lost is [`Kind::Uncertain`] at once. An indexed write is sent again until its outcome
    /// is known: doing it twice is doing it once.
    pub fn store(&self, writes: &[Write<'_>]) -> Vec<Result<()>> {
        let start = Instant::now();
        let deadline = self.deadline();
        let mut tasks: Vec<Task<'_>> = writes.iter().map(|write| self.task(*write)).collect();
        keep_order(&mut tasks);
        // What a take of this process left in doubt belongs before what is stored now.
        self.settle_claims(deadline);
        for attempt in 0.. {
            let mut pending: Vec<&mut Task<'_>> = tasks.iter_mut().filter(|task| task.result.is_none()).collect();
            // Those that share a call side by side. Nothing is overtaken: `keep_order` leaves each key one such task.
            pending.sort_by_key(|task| !task.form.is_shared());
            if pending.is_empty() {
                break;
            }
            let (failure, connected) = self.attempt(&mut pending, deadline);
            let Some(failure) = failure else { continue };
            // Without a server, only what is in doubt is worth waiting for.
            let is_worth_it = connected || pending.iter().any(|task| task.in_doubt && task.result.is_none());
            let is_over = failure.kind == Kind::Timeout || !is_worth_it || !self.pause(attempt, deadline);
            for task in pending.iter_mut().filter(|task| task.result.is_none()) {
                if is_over {
                    task.result = Some(Err(task.failed(&failure)));
                } else if task.in_doubt {
                    self.stats.retried.fetch_add(task.write.records.len() as u64, Relaxed);
                }
            }
        }
        self.stats.store_calls.record(start.elapsed());
        tasks
            .into_iter()
            .map(|task| self.tally(&task.write, task.result.expect("the loop ends when all have one")))
            .collect()
    }

    fn task<'a>(&self, write: Write<'a>) -> Task<'a> {
        let key = self.key(write.id);
        let renews = self.renewals.as_ref().is_some_and(|renewals| !renewals.is_fresh(&key));
        let form = match (write.placement, &self.renewals) {
            (Placement::At(_), _) => Form::Script,
            (Placement::Append, None) => Form::Push,
            (Placement::Append, Some(_)) if renews => Form::Script,
            (Placement::Append, Some(_)) => Form::PushExisting,
        };
        Task { write, key, form, renews, at_any_time: false, in_doubt: false, result: None }
    }

    /// One round trip for all of `tasks`. Returns what went wrong with the connection, and whether there was one.
    fn attempt(&self, tasks: &mut [&mut Task<'_>], deadline: Instant) -> (Option<Error>, bool) {
        let ttl_ms = self.pool.config().ttl.map_or(0, |ttl| ttl.as_millis() as u64);
        let mut calls: Vec<&mut [&mut Task<'_>]> =
            tasks.chunk_by_mut(|a, b| a.may_share_with(b)).flat_map(|tasks| tasks.chunks_mut(SHARED)).collect();
        let pack = |too_late| {
            let mut pipeline = Pipeline::new();
            calls.iter().for_each(|tasks| pipeline.push(&command(tasks, ttl_ms, too_late)));
            pipeline
        };
        let (pipeline, exchange) = match self.exchange(pack, deadline) {
            Ok(exchanged) => exchanged,
            Err(error) => return (Some(error), false),
        };
        for (tasks, reply) in calls.iter_mut().zip(&exchange.replies) {
            self.settle_call(tasks, reply);
        }
        if let Some(error) = &exchange.failure {
            for (i, tasks) in calls.iter_mut().enumerate().skip(exchange.replies.len()) {
                if pipeline.was_sent(i, exchange.sent) {
                    tasks.iter_mut().for_each(|task| task.lost(error));
                }
            }
        }
        (exchange.failure, true)
    }

    /// Takes in the answer to one command: an answer to each of its writes, or one that is for all.
    fn settle_call(&self, tasks: &mut [&mut Task<'_>], reply: &Value) {
        match reply {
            Value::Array(answers) if answers.len() == tasks.len() => {
                tasks.iter_mut().zip(answers).for_each(|(task, answer)| self.settle(task, answer));
            }
            // Nothing was stored. It may be one key that the user has no right to: each write is to hear for itself.
            Value::ServerError(error) if tasks.len() > 1 && error.kind() != Some(ServerErrorKind::NoScript) => {
                tasks.iter_mut().for_each(|task| task.form = Form::WholeScript);
            }
            answer => tasks.iter_mut().for_each(|task| self.settle(task, answer)),
        }
    }

    /// Takes in the answer to one write. Without a result afterwards, the task wants to be put in another form.
    fn settle(&self, task: &mut Task<'_>, reply: &Value) {
        task.result = match reply {
            Value::Int(0) if task.form == Form::PushExisting => {
                task.form = Form::Script;
                // Whoever begins it anew in the meantime may give it no life.
                task.renews = true;
                None
            }
            // Too late by a clock that has been put forward, for somebody is still waiting.
            Value::Nil => {
                task.at_any_time = true;
                None
            }
            Value::Int(length) if *length > 0 => {
                if let (true, Some(renewals)) = (task.renews, &self.renewals) {
                    renewals.renewed(&task.key);
                }
                Some(Ok(()))
            }
            Value::Int(answer) if *answer < 0 => Some(Err(task.gap(-answer - 1))),
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => {
                task.form = Form::UnknownScript;
                None
            }
            Value::ServerError(error) => {
                Some(Err(refused(error).of(format_args!("request {:?}: not stored", task.write.id))))
            }
            other => Some(Err(unexpected(other).of(format_args!("request {:?}: not stored", task.write.id)))),
        };
        // A refusal of the repetition says nothing of what was sent before.
        if let (true, Some(Err(error))) = (task.in_doubt, &task.result) {
            task.result = Some(Err(task.failed(error)));
        }
    }

    fn tally(&self, write: &Write<'_>, result: Result<()>) -> Result<()> {
        let counter = match (&result, write.placement) {
            (Ok(()), Placement::Append) => &self.stats.appended,
            (Ok(()), Placement::At(_)) => &self.stats.indexed,
            (Err(error), _) if error.kind == Kind::Uncertain => &self.stats.uncertain,
            (Err(error), _) if matches!(error.kind, Kind::Unavailable | Kind::Timeout) => return result,
            (Err(_), _) => &self.stats.refused,
        };
        // That there was no connection has been logged already, once for all writes.
        if let Err(error) = &result {
            log::emit(Level::Warning, || error.message.clone());
        }
        counter.fetch_add(write.records.len() as u64, Relaxed);
        result
    }
}

/// The command that stores the writes of `tasks`: of one, or of those that may share.
fn command(tasks: &[&mut Task<'_>], ttl_ms: u64, too_late: u64) -> Cmd {
    let first = &tasks[0];
    let mut command = match first.form {
        Form::Push => redis::cmd("RPUSH").arg(&first.key).take(),
        Form::PushExisting => redis::cmd("RPUSHX").arg(&first.key).take(),
        form => {
            let keys: Vec<&str> = tasks.iter().map(|task| task.key.as_str()).collect();
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
    for Task { write, form, .. } in tasks {
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

/// Puts tasks of one key in the form that neither a forgotten script nor a missing list sends into another round, where
/// one of them could be overtaken by the next.
fn keep_order(tasks: &mut [Task<'_>]) {
    if tasks.len() < 2 {
        return;
    }
    let mut count = HashMap::with_capacity(tasks.len());
    for task in tasks.iter() {
        *count.entry(task.write.id).or_insert(0) += 1;
    }
    for task in tasks.iter_mut().filter(|task| count[task.write.id] > 1 && task.form != Form::Push) {
        task.form = Form::WholeScript;
    }
}

impl Task<'_> {
    /// Whether one command can store both.
    fn may_share_with(&self, other: &Self) -> bool {
        self.form.is_shared()
            && self.form == other.form
            && self.renews == other.renews
            && self.at_any_time == other.at_any_time
            && self.write.records.len() == other.write.records.len()
    }

    /// It was sent, and the answer was lost for this reason.
    fn lost(&mut self, cause: &Error) {
        self.in_doubt = true;
        if self.write.placement == Placement::Append {
            self.result = Some(Err(self.failed(cause)));
        }
    }

    /// The error of a write that `cause` kept from being settled.
    fn failed(&self, cause: &Error) -> Error {
        let id = self.write.id;
        if self.in_doubt {
            return Error::new(Kind::Uncertain, format!("request {id:?}: sent, but may or may not be stored: {cause}"));
        }
        Error::new(cause.kind, format!("request {id:?}: not stored: {cause}"))
    }

    fn gap(&self, length: i64) -> Error {
        let (id, records) = (self.write.id, if length == 1 { "record" } else { "records" });
        let cause = "an earlier store failed, or Redis lost the list, or it has expired or been taken";
        let message = match self.write.placement {
            Placement::At(index) => {
                format!("request {id:?}: token_index is {index}, but the list has {length} {records}: {cause}")
            }
            Placement::Append => format!("request {id:?}: not stored, the list has {length} {records}"),
        };
        Error::new(Kind::Gap, message)
    }
}
