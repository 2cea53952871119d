//! Query parameters: unknown ones are ignored, known ones stand once and are read strictly.

use std::borrow::Cow;

use service::Problem;

/// Characters of a wrong value that its error shows.
const SHOWN_CHARS: usize = 40;

/// A request's query, percent-encoded as it came.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(crate) fn of(uri: &'a http::Uri) -> Self {
        Self(uri.query().unwrap_or_default())
    }

    /// The parameter's value, decoded.
    ///
    /// # Errors
    /// 400 if it is there more than once.
    pub(crate) fn one(self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        let mut values = form_urlencoded::parse(self.0.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => {
                Err(Problem::invalid_request(format!("{name} takes one value, sent were several")))
            }
        }
    }

    /// A whole number within bounds, in decimal digits.
    ///
    /// # Errors
    /// 400 naming the parameter and what it takes. `unit` stands behind "a whole number".
    pub(crate) fn number(
        self,
        name: &str,
        unit: &str,
        min: u64,
        max: u64,
    ) -> Result<Option<u64>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|number| digits && (min..=max).contains(number))
            .map(Some)
            .ok_or_else(|| {
                let shown: String = text.chars().take(SHOWN_CHARS).collect();
                Problem::invalid_request(format!(
                    "{name} takes a whole number{unit} from {min} to {max}, sent was {shown:?}"
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query<'_> {
        Query(text)
    }

    #[test]
    fn a_number_is_digits_within_bounds() {
        for (text, number) in [
            ("", None),
            ("m=5", None),
            ("n=1", Some(1)),
            ("n=9", Some(9)),
            ("n=007", Some(7)),
            ("n=%35&m=x", Some(5)),
        ] {
            assert_eq!(query(text).number("n", "", 1, 9).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let wrong = [
            "n",
            "n=",
            "n=0",
            "n=10",
            "n=-1",
            "n=+1",
            "n=%2B1",
            "n=1.0",
            "n=1e0",
            "n=abc",
            "n=0x1",
            "n= 1",
            "n=1%00",
            "n=%EF%BC%91",
            "n=99999999999999999999999",
        ];
        for text in wrong {
            let problem = query(text).number("n", " of seconds", 1, 9).unwrap_err();
            let detail = problem.detail();
            let takes = "n takes a whole number of seconds from 1 to 9, sent was \"";
            assert!(detail.starts_with(takes), "{text}: {detail}");
        }
        let twice = query("n=1&m=2&n=1").number("n", "", 1, 9).unwrap_err();
        assert_eq!(twice.detail(), "n takes one value, sent were several");
    }
}
