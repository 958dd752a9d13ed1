//! Times in the notations of subtitle files.

/// `[HH:]MM:SS.mmm` with `decimal_marker` before the milliseconds, as openai-whisper writes it: hours are left out
/// when they are zero unless `always_hours`; halves of a millisecond round to even. Negative times count as zero.
pub fn format_timestamp(seconds: f64, always_hours: bool, decimal_marker: char) -> String {
    let all = milliseconds(seconds).max(0);
    let (hours, minutes, seconds, milliseconds) = (
        all / 3_600_000,
        all / 60_000 % 60,
        all / 1000 % 60,
        all % 1000,
    );
    let hours = if always_hours || hours > 0 {
        format!("{hours:02}:")
    } else {
        String::new()
    };
    format!("{hours}{minutes:02}:{seconds:02}{decimal_marker}{milliseconds:03}")
}

/// Whole milliseconds, halves to even (Python's `round`).
pub(super) fn milliseconds(seconds: f64) -> i64 {
    (1000.0 * seconds).round_ties_even() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_the_reference() {
        assert_eq!(format_timestamp(0.0, false, '.'), "00:00.000");
        assert_eq!(format_timestamp(0.0, true, ','), "00:00:00,000");
        assert_eq!(format_timestamp(3599.9995, false, '.'), "01:00:00.000");
        assert_eq!(format_timestamp(366061.0625, false, '.'), "101:41:01.062");
        assert_eq!(format_timestamp(0.0005, false, '.'), "00:00.000");
        assert_eq!(format_timestamp(0.0015, false, '.'), "00:00.002");
        assert_eq!(format_timestamp(-1.0, false, '.'), "00:00.000");
        assert_eq!(format_timestamp(f64::NAN, false, '.'), "00:00.000");
    }
}
