//! Slots: a cluster has each key on the server that has its slot.

/// How many there are.
pub(super) const COUNT: usize = 16384;

/// The slot of a key, or of its hash tag.
pub fn of(key: &str) -> u16 {
    let hashed = tag(key).unwrap_or(key);
    crc16::State::<crc16::XMODEM>::calculate(hashed.as_bytes()) % COUNT as u16
}

/// The first `{...}` of a key that is not empty: keys with equal ones are on one server.
pub fn tag(key: &str) -> Option<&str> {
    key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag).filter(|tag| !tag.is_empty())
}

/// A hash tag of `slot`.
pub fn tag_of(slot: u16) -> String {
    // About one in so many numbers has it.
    (0_u32..).map(|number| number.to_string()).find(|tag| of(tag) == slot).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_redis_own() {
        // By CLUSTER KEYSLOT of Redis 7.
        for (key, slot) in [("", 0), ("foo", 12182), ("123456789", 12739), ("{foo}bar", 12182), ("a{foo}{b}", 12182)] {
            assert_eq!(of(key), slot, "{key}");
        }
        assert_eq!(of("{}foo"), crc16::State::<crc16::XMODEM>::calculate(b"{}foo") % 16384);
        assert_eq!(of("foo{bar"), crc16::State::<crc16::XMODEM>::calculate(b"foo{bar") % 16384);
    }

    #[test]
    fn each_slot_has_a_tag() {
        for slot in [0, 1, 5461, 16383] {
            assert_eq!(of(&format!("x{{{}}}y", tag_of(slot))), slot);
        }
    }
}
