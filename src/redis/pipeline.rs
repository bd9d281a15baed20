//! Commands packed for one round trip, and the atomic scripts.

use once_cell::race::OnceBox;
use redis::{Cmd, Value};

/// Packed commands, and where each ends.
#[derive(Default)]
pub struct Pipeline {
    pub packed: Vec<u8>,
    ends: Vec<usize>,
    /// Which of all replies are to an ASKING.
    asking: Vec<usize>,
}

impl Pipeline {
    pub fn new() -> Self {
        Self::default()
    }

    /// One command alone.
    pub fn of(command: &Cmd) -> Self {
        let mut pipeline = Self::new();
        pipeline.push(command);
        pipeline
    }

    pub fn push(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.packed);
        self.ends.push(self.packed.len());
    }

    /// The same for a server of a cluster that does not have the key's slot yet, and sends away who does not say so.
    pub fn push_asking(&mut self, command: &Cmd) {
        self.ask();
        self.push(command);
    }

    /// The same commands, each as by [`Self::push_asking`].
    pub fn asking(&self) -> Self {
        let mut asking = Self::new();
        for (i, end) in self.ends.iter().enumerate() {
            asking.ask();
            asking.packed.extend_from_slice(&self.packed[self.before(i)..*end]);
            asking.ends.push(asking.packed.len());
        }
        asking
    }

    fn ask(&mut self) {
        self.asking.push(self.replies());
        redis::cmd("ASKING").write_packed_command(&mut self.packed);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// How many replies come.
    pub fn replies(&self) -> usize {
        self.ends.len() + self.asking.len()
    }

    /// Leaves those to the commands.
    pub fn strip(&self, replies: &mut Vec<Value>) {
        let mut at = 0..;
        replies.retain(|_| at.next().is_none_or(|at| !self.asking.contains(&at)));
    }

    /// Bytes of the commands before command `i`.
    pub fn before(&self, i: usize) -> usize {
        i.checked_sub(1).map_or(0, |last| self.ends[last])
    }

    /// Whether command `i` was handed over whole when `sent` bytes were. Redis executes no part of a command.
    pub fn was_sent(&self, i: usize, sent: usize) -> bool {
        self.ends[i] <= sent
    }
}

/// A script that the server runs atomically. Its keys are of one cluster slot, but for a store of many lists.
///
/// The first argument of each is a time of the server's, in milliseconds, from which on it does nothing: what is stuck in a
/// frozen server or on the way there cannot take effect when its caller has long been told of a timeout. 0 is for never.
pub struct Script {
    body: &'static str,
    /// Filled at first use; no lock is involved, so a fork cannot leave it held.
    hash: OnceBox<String>,
}

pub static STORE: Script = Script::new(concat!(include_str!("scripts/clock.lua"), include_str!("scripts/store.lua")));
pub static CLAIM: Script = Script::new(concat!(include_str!("scripts/clock.lua"), include_str!("scripts/claim.lua")));
pub static RESTORE: Script =
    Script::new(concat!(include_str!("scripts/clock.lua"), include_str!("scripts/restore.lua")));

impl Script {
    const fn new(body: &'static str) -> Self {
        Script { body, hash: OnceBox::new() }
    }

    /// The call of the script: by its hash, or `whole` where the server answered NOSCRIPT, which makes it known there.
    pub fn call(&self, whole: bool, keys: &[&str], too_late: u64) -> Cmd {
        let mut command = if whole {
            redis::cmd("EVAL").arg(self.body).take()
        } else {
            let hash = self.hash.get_or_init(|| Box::new(redis::Script::new(self.body).get_hash().to_string()));
            redis::cmd("EVALSHA").arg(hash).take()
        };
        command.arg(keys.len()).arg(keys).arg(too_late);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replies_to_asking_are_left_out() {
        let mut pipeline = Pipeline::of(redis::cmd("LLEN").arg("a"));
        pipeline.push_asking(redis::cmd("LLEN").arg("b"));
        pipeline.push(redis::cmd("WAIT").arg(1).arg(100));
        assert_eq!((pipeline.len(), pipeline.replies()), (3, 4));
        let all = [Value::Int(1), Value::Okay, Value::Int(2), Value::Int(3)];
        for (came, left) in [(0, vec![]), (1, vec![1]), (2, vec![1]), (3, vec![1, 2]), (4, vec![1, 2, 3])] {
            let mut replies = all[..came].to_vec();
            pipeline.strip(&mut replies);
            assert_eq!(replies, left.into_iter().map(Value::Int).collect::<Vec<_>>(), "of {came}");
        }
    }

    /// An ASKING that was sent without its command does nothing.
    #[test]
    fn a_command_was_sent_with_all_that_belongs_to_it() {
        let command = redis::cmd("LLEN").arg("a").take();
        let asking = Pipeline::of(&command).asking();
        assert_eq!((asking.len(), asking.replies()), (1, 2));
        let all = asking.packed.len();
        assert!(asking.packed.ends_with(&command.get_packed_command()) && all > command.get_packed_command().len());
        assert!(asking.was_sent(0, all) && !asking.was_sent(0, all - 1));
    }
}
