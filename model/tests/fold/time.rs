//! Times, read and written.

use model::Timestamp;

#[test]
fn read_and_written() {
    for (read, written) in [
        ("2025-12-30T10:00:00Z", "2025-12-30T10:00:00Z"),
        ("2025-12-30T10:00:00.000Z", "2025-12-30T10:00:00Z"),
        ("2025-12-30T10:00:00.5Z", "2025-12-30T10:00:00.500Z"),
        ("2025-12-30T10:00:00.000001Z", "2025-12-30T10:00:00.000001Z"),
        ("2025-12-30T10:00:00.123456789Z", "2025-12-30T10:00:00.123456Z"),
        ("2025-12-30T10:00:00.9999999Z", "2025-12-30T10:00:00.999999Z"),
        ("2025-12-30T12:30:00+02:30", "2025-12-30T10:00:00Z"),
        ("2025-12-30T00:00:00-10:00", "2025-12-30T10:00:00Z"),
        ("2025-12-30t10:00:00z", "2025-12-30T10:00:00Z"),
        ("1970-01-01T00:00:00+00:01", "1970-01-01T00:00:00Z"),
        ("0000-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z"),
    ] {
        let time = Timestamp::parse_rfc3339(read).unwrap_or_else(|| panic!("{read}"));
        assert_eq!(time.to_string(), written, "{read}");
        assert_eq!(Timestamp::parse_rfc3339(written), Some(time));
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&json).unwrap(), time);
    }
    for bad in [
        "",
        "2025-12-30",
        "2025-12-30T10:00:00",
        "2025-02-30T10:00:00Z",
        "10:00:00Z",
        "1767088800",
        "+12025-01-01T00:00:00Z",
    ] {
        assert_eq!(Timestamp::parse_rfc3339(bad), None, "{bad}");
    }
}

#[test]
fn arithmetic_stays_in_range() {
    assert_eq!(Timestamp::from_micros(i64::MIN), Timestamp::EPOCH);
    assert_eq!(Timestamp::from_millis(i64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::MAX.plus_micros(i64::MAX), Timestamp::MAX);
    assert_eq!(Timestamp::EPOCH.plus_micros(-1), Timestamp::EPOCH);
    assert_eq!(Timestamp::EPOCH.micros_since(Timestamp::MAX), 0);
    assert_eq!(Timestamp::from_millis(2).micros_since(Timestamp::from_millis(1)), 1000);
}
