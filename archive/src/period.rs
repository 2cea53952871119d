//! Hours and days of the log's time, and their names.

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, Utc};
use model::Timestamp;
use serde::{Deserialize, Serialize};

/// An hour's real length, in seconds.
pub const HOUR_SECONDS: u32 = 3_600;
/// Hours of a day, however long they are.
const DAY_HOURS: i64 = 24;

/// How long an hour is: 3,600 seconds, but for demonstrations. It never changes in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct HourLength(u32);

/// The length is not 1 to 3600 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("takes 1 to 3600 seconds")]
pub struct InvalidHourLength;

/// An hour of the log: the number of hours since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hour(i64);

/// A day of the log: the number of days since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(i64);

impl HourLength {
    pub const REAL: Self = Self(HOUR_SECONDS);

    pub fn new(seconds: u32) -> Result<Self, InvalidHourLength> {
        if (1..=HOUR_SECONDS).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(InvalidHourLength)
        }
    }

    pub const fn seconds(self) -> u32 {
        self.0
    }

    const fn micros(self) -> i64 {
        self.0 as i64 * 1_000_000
    }

    /// The hour that a log time is in.
    pub const fn hour_of(self, time: Timestamp) -> Hour {
        Hour(time.as_micros().div_euclid(self.micros()))
    }

    /// When an hour begins.
    pub const fn begin(self, hour: Hour) -> Timestamp {
        Timestamp::from_micros(hour.0 * self.micros())
    }

    /// When an hour is over: the begin of the next one.
    pub const fn end(self, hour: Hour) -> Timestamp {
        self.begin(hour.next())
    }

    /// When a day begins: what a full named after it shows.
    pub const fn midnight(self, day: Day) -> Timestamp {
        self.begin(Hour(day.0 * DAY_HOURS))
    }

    fn is_real(self) -> bool {
        self == Self::REAL
    }

    /// `2025-12-30-10`: the name of an hour's objects.
    pub fn hour_name(self, hour: Hour) -> String {
        let format = if self.is_real() { "%Y-%m-%d-%H" } else { "%Y-%m-%d-%H-%M-%S" };
        format_utc(self.begin(hour), format)
    }

    /// `2025-12-30`: the name of a day's objects. It sorts before the names of the day's hours, or as the
    /// first of them, and after those of earlier ones.
    pub fn day_name(self, day: Day) -> String {
        let format = if self.is_real() { "%Y-%m-%d" } else { "%Y-%m-%d-%H-%M-%S" };
        format_utc(self.midnight(day), format)
    }

    /// The hour that has this name.
    pub fn hour_named(self, name: &str) -> Option<Hour> {
        let hour = self.hour_of(begin_named(name)?);
        (self.hour_name(hour) == name).then_some(hour)
    }

    /// The day that has this name.
    pub fn day_named(self, name: &str) -> Option<Day> {
        let day = self.hour_of(begin_named(name)?).day();
        (self.day_name(day) == name).then_some(day)
    }

    /// `date=2025-12-30/hour=10`: where an hour's tables lie.
    pub fn hour_folder(self, hour: Hour) -> String {
        let format =
            if self.is_real() { "date=%Y-%m-%d/hour=%H" } else { "date=%Y-%m-%d/hour=%H-%M-%S" };
        format_utc(self.begin(hour), format)
    }

    /// `date=2025-12-30/hour=all`: where a compacted day's tables lie.
    pub fn day_folder(self, day: Day) -> String {
        let format = if self.is_real() {
            "date=%Y-%m-%d/hour=all"
        } else {
            "date=%Y-%m-%d/hour=all-%H-%M-%S"
        };
        format_utc(self.midnight(day), format)
    }
}

impl TryFrom<u32> for HourLength {
    type Error = InvalidHourLength;

    fn try_from(seconds: u32) -> Result<Self, InvalidHourLength> {
        Self::new(seconds)
    }
}

impl From<HourLength> for u32 {
    fn from(length: HourLength) -> Self {
        length.0
    }
}

impl FromStr for HourLength {
    type Err = InvalidHourLength;

    fn from_str(seconds: &str) -> Result<Self, InvalidHourLength> {
        seconds.parse().map_err(|_| InvalidHourLength).and_then(Self::new)
    }
}

impl Hour {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub const fn day(self) -> Day {
        Day(self.0.div_euclid(DAY_HOURS))
    }
}

impl Day {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for HourLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// `2025-12-30T10-15-00Z`: a moment in an object's name.
pub fn moment_name(time: Timestamp) -> String {
    format_utc(time, "%Y-%m-%dT%H-%M-%SZ")
}

/// When a period begins, by its name: the parts that it lacks are 0.
fn begin_named(name: &str) -> Option<Timestamp> {
    let mut parts = name.split('-').map(|part| part.parse::<u32>());
    let mut next = || parts.next().unwrap_or(Ok(0)).ok();
    let date = NaiveDate::from_ymd_opt(i32::try_from(next()?).ok()?, next()?, next()?)?;
    let time = date.and_hms_opt(next()?, next()?, next()?)?;
    Some(Timestamp::from_micros(time.and_utc().timestamp_micros()))
}

fn format_utc(time: Timestamp, format: &str) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp_micros(time.as_micros()).unwrap_or_default();
    time.format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn an_hour_begins_with_its_first_microsecond_and_ends_before_the_next() {
        let length = HourLength::REAL;
        let ten = length.hour_of(at("2025-12-30T10:00:00Z"));
        assert_eq!(ten, length.hour_of(at("2025-12-30T10:59:59.999999Z")));
        assert_eq!(ten.next(), length.hour_of(at("2025-12-30T11:00:00Z")));
        assert_eq!(length.begin(ten), at("2025-12-30T10:00:00Z"));
        assert_eq!(length.end(ten), at("2025-12-30T11:00:00Z"));
        assert_eq!(length.midnight(ten.day()), at("2025-12-30T00:00:00Z"));
    }

    #[test]
    fn names_are_the_founding_ones() {
        let hour = HourLength::REAL.hour_of(at("2025-12-30T10:15:00Z"));
        assert_eq!(HourLength::REAL.hour_name(hour), "2025-12-30-10");
        assert_eq!(HourLength::REAL.day_name(hour.day()), "2025-12-30");
        assert_eq!(HourLength::REAL.hour_folder(hour), "date=2025-12-30/hour=10");
        assert_eq!(HourLength::REAL.day_folder(hour.day()), "date=2025-12-30/hour=all");
        assert_eq!(HourLength::REAL.hour_named("2025-12-30-10"), Some(hour));
        for name in ["", "2025-12-30", "2025-12-30-24", "2025-12-30-1", "2025-12-30-10-00-00"] {
            assert_eq!(HourLength::REAL.hour_named(name), None, "{name}");
        }
        assert_eq!(moment_name(at("2025-12-30T10:15:00.5Z")), "2025-12-30T10-15-00Z");
    }

    #[test]
    fn names_are_read_back() {
        for length in [HourLength::REAL, HourLength::new(10).unwrap(), HourLength::new(7).unwrap()]
        {
            let hour = length.hour_of(at("2025-12-30T10:15:00Z"));
            assert_eq!(length.hour_named(&length.hour_name(hour)), Some(hour));
            assert_eq!(length.day_named(&length.day_name(hour.day())), Some(hour.day()));
        }
        for name in ["", "2025", "2025-12-30-10-11", "2025-13-30", "x-12-30", "2025-12-30-24"] {
            assert_eq!(HourLength::REAL.hour_named(name), None, "{name}");
            assert_eq!(HourLength::REAL.day_named(name), None, "{name}");
        }
    }

    #[test]
    fn short_hours_have_names_to_the_second_and_days_of_24() {
        let short = HourLength::new(10).unwrap();
        let hour = short.hour_of(at("2025-12-30T10:00:25Z"));
        assert_eq!(short.hour_name(hour), "2025-12-30-10-00-20");
        assert_eq!(short.hour_folder(hour), "date=2025-12-30/hour=10-00-20");
        assert_eq!(short.day_name(hour.day()), "2025-12-30-10-00-00");
        assert_eq!(short.day_folder(hour.day()), "date=2025-12-30/hour=all-10-00-00");
        assert_eq!(short.hour_named("2025-12-30-10-00-20"), Some(hour));
        assert_eq!(short.hour_named("2025-12-30-10-00-21"), None);
        assert_eq!(HourLength::new(0), Err(InvalidHourLength));
        assert_eq!(HourLength::new(3_601), Err(InvalidHourLength));
        assert_eq!("10".parse(), Ok(short));
        for wrong in ["", "0", "3601", "-1", "ten", "4294967296"] {
            assert_eq!(wrong.parse::<HourLength>(), Err(InvalidHourLength), "{wrong}");
            assert!(serde_json::from_str::<HourLength>(wrong).is_err(), "{wrong}");
        }
    }
}
