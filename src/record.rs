//! The text of one list element: `log_norm,log_norm_temp,entropy`, as PITA writes and reads it.

use crate::metrics::Metrics;

/// The most bytes that [`write`] adds: three doubles of at most 24 characters and two commas.
pub const MAX_LEN: usize = 3 * 24 + 2;

/// Appends the record of `metrics`: each number in the fewest digits that parse back to the same double.
pub fn write(metrics: &Metrics, out: &mut Vec<u8>) {
    let mut digits = ryu::Buffer::new();
    for (i, number) in metrics.fields().into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        // ryu spells it "NaN"; Python's f-strings, which PITA writes with, say "nan".
        let text = if number.is_nan() { "nan" } else { digits.format(number) };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Reads a record; `None` when `text` is not exactly three numbers.
pub fn parse(text: &[u8]) -> Option<Metrics> {
    let mut fields = std::str::from_utf8(text).ok()?.split(',');
    let mut next = || fields.next()?.parse::<f64>().ok();
    let (log_norm, log_norm_temp, entropy) = (next()?, next()?, next()?);
    fields.next().is_none().then_some(Metrics { log_norm, log_norm_temp, entropy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(log_norm: f64, log_norm_temp: f64, entropy: f64) -> String {
        let mut out = Vec::new();
        write(&Metrics { log_norm, log_norm_temp, entropy }, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_what_python_reads() {
        assert_eq!(text(1.5, -2.0, 0.0), "1.5,-2.0,0.0");
        assert_eq!(text(f64::INFINITY, f64::NEG_INFINITY, f64::NAN), "inf,-inf,nan");
        assert_eq!(text(1e300, 5e-324, 0.1), "1e300,5e-324,0.1");
    }

    #[test]
    fn reads_what_python_writes() {
        let read = parse(b"10.373491181781864,41.5,1e-07").unwrap();
        assert_eq!(read.fields(), [10.373491181781864, 41.5, 1e-07]);
        let special = parse(b"inf,-inf,nan").unwrap();
        assert_eq!((special.log_norm, special.log_norm_temp), (f64::INFINITY, f64::NEG_INFINITY));
        assert!(special.entropy.is_nan());
    }

    #[test]
    fn refuses_all_else() {
        for text in ["", ",", ",,", "1", "1,2", "1,2,", "1,2,3,", "1,2,3,4", "1,2,x", "1;2;3", "1, 2,3", "0x1,2,3"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"1,2,\xff"), None);
    }

    proptest! {
        /// Every double comes back bit for bit, whatever NaN's payload.
        #[test]
        fn round_trips(bits in proptest::array::uniform3(any::<u64>())) {
            let [a, b, c] = bits.map(f64::from_bits);
            let line = text(a, b, c);
            prop_assert!(line.len() <= MAX_LEN);
            let back = parse(line.as_bytes()).unwrap();
            for (sent, read) in [a, b, c].into_iter().zip(back.fields()) {
                prop_assert!(sent.to_bits() == read.to_bits() || (sent.is_nan() && read.is_nan()));
            }
        }
    }
}
