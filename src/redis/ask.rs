//! Calls that are safe to repeat: they are, over new connections and at other servers, until all is answered.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use redis::{ServerErrorKind, Value};

use super::client::Client;
use super::connection::{Exchange, refused};
use super::detour::Detour;
use super::node::Node;
use super::pipeline::Pipeline;
use crate::error::{Error, Kind, Result};
use crate::log::{self, Level, Limit};

/// So often in a row commands are sent elsewhere at once; then after a pause, for servers may disagree.
pub(super) const DETOURS: u32 = 5;

/// The replies, and whether the commands were also sent without an answer before: those may yet reach Redis.
pub struct Answer {
    pub replies: Vec<Value>,
    pub is_repeated: bool,
}

impl Answer {
    /// The answer to a repetition of other commands that were answered so.
    pub fn after(self, before: &Answer) -> Self {
        Answer { is_repeated: self.is_repeated || before.is_repeated, ..self }
    }
}

/// Why there was no answer, and whether Redis may have executed the commands all the same.
pub struct Lost {
    pub error: Error,
    pub was_sent: bool,
}

impl Lost {
    /// As [`Answer::after`].
    pub fn after(self, before: &Answer) -> Self {
        Lost { was_sent: self.was_sent || before.is_repeated, ..self }
    }
}

/// How long it is tried.
#[derive(Clone, Copy)]
pub struct Until {
    pub deadline: Instant,
    /// Whether also while a server of a cluster says that it cannot do it now.
    pub is_patient: bool,
}

impl From<Instant> for Until {
    fn from(deadline: Instant) -> Self {
        Until { deadline, is_patient: true }
    }
}

/// Where a command is to be sent, other than where it was.
pub enum Elsewhere {
    /// Where the map says by now.
    ByMap,
    /// To a server that is getting the slot.
    Asking(Arc<Node>),
    /// There again, later, for this reason.
    Later(Error),
}

impl Client {
    /// Where a command is to be sent that a server of a cluster has answered so, if it is.
    pub(super) fn elsewhere(&self, node: &Node, reply: &Value) -> Option<Elsewhere> {
        static LATER: Limit = Limit::new();
        let cluster = self.topology.cluster()?;
        let later = |error: Error| {
            let error = error.of(format_args!("{}", node.config()));
            self.look_again(cluster);
            log::emit_limited(&LATER, Level::Warning, || format!("{error}; trying on"));
            Elsewhere::Later(error)
        };
        Some(match Detour::of(reply, node.config())? {
            Detour::Moved { slot, host, port } => {
                cluster.moved(slot, &host, port);
                self.look_again(cluster);
                Elsewhere::ByMap
            }
            Detour::Ask { host, port } => Elsewhere::Asking(cluster.node_at(&host, port)),
            Detour::Wait(error) => later(error),
            Detour::Down(error) => {
                node.is_suspect.store(true, Relaxed);
                later(error)
            }
        })
    }

    /// The replies to commands for a key that do no harm when they are executed twice: repeated until all are answered, or
    /// `deadline`; where nothing was sent yet, only as long as there is a server.
    pub(super) fn ask_each(&self, key: &str, pack: &dyn Fn(u64) -> Pipeline, until: Until) -> Result<Answer, Lost> {
        self.ask_node(&|| self.route(key, until.deadline), pack, until)
    }

    /// As [`Self::ask_each`], of the node by `route`, or where that sends it.
    fn ask_node(
        &self,
        route: &dyn Fn() -> Result<Arc<Node>>,
        pack: &dyn Fn(u64) -> Pipeline,
        until: Until,
    ) -> Result<Answer, Lost> {
        let Until { deadline, is_patient } = until;
        let (mut was_sent, mut detours, mut asked) = (false, 0, None);
        for attempt in 0.. {
            let is_asking = asked.is_some();
            let pack = |too_late| if is_asking { pack(too_late).asking() } else { pack(too_late) };
            let node = asked.take().map_or_else(route, Ok);
            let exchanged = node.clone().and_then(|node| self.exchange(&node, pack, deadline.into()));
            let error = match exchanged {
                Ok((_, Exchange { failure: None, replies, .. })) => {
                    let Some((executed, elsewhere)) = self.first_elsewhere(node.as_deref(), &replies) else {
                        return Ok(Answer { replies, is_repeated: was_sent });
                    };
                    was_sent |= executed > 0;
                    detours += 1;
                    match elsewhere {
                        Elsewhere::Later(error) if is_patient => error,
                        Elsewhere::Later(error) => return Err(Lost { error, was_sent }),
                        _ if detours > DETOURS => disagreement(&replies[executed]),
                        Elsewhere::ByMap => continue,
                        Elsewhere::Asking(node) => {
                            asked = Some(node);
                            continue;
                        }
                    }
                }
                Ok((_, Exchange { failure: Some(error), sent, .. })) => {
                    was_sent |= sent > 0;
                    error
                }
                Err(error) if was_sent => error,
                Err(error) => return Err(Lost { error, was_sent }),
            };
            if error.kind != Kind::Unavailable || !self.pause(node.as_deref().ok(), attempt, deadline) {
                if let Ok(node) = &node {
                    self.leave_suspect(node, &error);
                }
                return Err(Lost { error, was_sent });
            }
        }
        unreachable!("attempts are not counted out")
    }

    /// The first of some replies that sends its command elsewhere, and where.
    fn first_elsewhere(&self, node: Result<&Node, &Error>, replies: &[Value]) -> Option<(usize, Elsewhere)> {
        let node = node.ok()?;
        replies.iter().enumerate().find_map(|(i, reply)| Some((i, self.elsewhere(node, reply)?)))
    }

    /// Waits until a server is back, or a little longer after each failed attempt. False where `deadline` has come.
    pub(super) fn pause(&self, node: Option<&Node>, attempt: u32, deadline: Instant) -> bool {
        if let Some(node) = node
            && node.breaker.check().is_err()
        {
            return node.breaker.wait(deadline);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        thread::sleep(Duration::from_millis(1 << attempt.min(6)).min(left));
        Instant::now() < deadline
    }

    /// As [`Self::ask_each`], for commands of which none may be refused.
    pub(super) fn ask(&self, key: &str, pack: &dyn Fn(u64) -> Pipeline, until: Until) -> Result<Vec<Value>> {
        let answer = self.ask_each(key, pack, until).map_err(|lost| lost.error)?;
        match first_refusal(&answer.replies) {
            Some(error) => Err(error),
            None => Ok(answer.replies),
        }
    }

    /// As [`Self::ask_each`], for commands that begin with a script: packed with its hash (false), or whole where the server
    /// does not know that.
    pub(super) fn ask_script(
        &self,
        key: &str,
        pack: impl Fn(bool, u64) -> Pipeline,
        until: Until,
    ) -> Result<Answer, Lost> {
        let answer = self.ask_each(key, &|too_late| pack(false, too_late), until)?;
        match &answer.replies[0] {
            Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript) => {
                let again = self.ask_each(key, &|too_late| pack(true, too_late), until);
                again.map(|again| again.after(&answer)).map_err(|lost| lost.after(&answer))
            }
            _ => Ok(answer),
        }
    }

    /// Whether Redis answers: each server of a cluster, and all slots have one.
    pub fn ping(&self) -> Result<()> {
        let deadline = self.deadline();
        if let Some(cluster) = self.topology.cluster()
            && let Some(slot) = self.map(cluster, deadline)?.gap()
        {
            self.look_again(cluster);
            let message = format!("no server of {} has slot {slot}", self.config());
            return Err(Error::new(Kind::Unavailable, message));
        }
        let ping = |_| Pipeline::of(&redis::cmd("PING"));
        self.topology.nodes().iter().try_for_each(|node| {
            let answer = self.ask_node(&|| Ok(node.clone()), &ping, deadline.into()).map_err(|lost| lost.error)?;
            first_refusal(&answer.replies).map_or(Ok(()), Err)
        })
    }
}

/// The first error among replies.
pub fn first_refusal(replies: &[Value]) -> Option<Error> {
    replies.iter().find_map(|reply| if let Value::ServerError(error) = reply { Some(refused(error)) } else { None })
}

/// Servers that send a command from one to the other, in the words of the last one.
pub fn disagreement(reply: &Value) -> Error {
    let last = match reply {
        Value::ServerError(error) => format!("{} {}", error.code(), error.details().unwrap_or("")),
        _ => String::new(),
    };
    let advice = "after an interrupted reshard, redis-cli --cluster fix helps";
    let message = format!("the servers of the cluster send a command to and fro, at last by \"{last}\"; {advice}");
    Error::new(Kind::Unavailable, message)
}

/// An answer that no Redis gives.
pub fn unexpected(reply: &Value) -> Error {
    // It may be long.
    let text: String = format!("{reply:?}").chars().take(200).collect();
    Error::new(Kind::Redis, format!("unexpected answer from Redis: {text}"))
}
