//! Authors as users.

use std::collections::HashMap;

use model::ContentHash;

use device::batches::Outgoing;

/// Characters of an e-mail address' hash that tell namesakes apart.
const HASH_CHARS: usize = 8;
/// Characters of a name that are taken into an id.
const NAME_CHARS: usize = 40;

/// A user, and the messages that are theirs.
#[derive(Debug)]
pub struct Person {
    pub user: String,
    pub messages: Vec<Outgoing>,
}

/// People in the order of their first message.
#[derive(Debug, Default)]
pub struct People {
    pub all: Vec<Person>,
    places: HashMap<String, usize>,
}

impl People {
    pub fn add(&mut self, name: &str, email: &str, message: Outgoing) {
        let user = user_id(name, email);
        let place = *self.places.entry(user.clone()).or_insert(self.all.len());
        match self.all.get_mut(place) {
            Some(person) => person.messages.push(message),
            None => self.all.push(Person { user, messages: vec![message] }),
        }
    }
}

/// A user's id: the name as far as ids can have it, and what the e-mail address hashes to.
pub fn user_id(name: &str, email: &str) -> String {
    let mut id = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            id.push(c);
        } else if !id.is_empty() && !id.ends_with('-') {
            id.push('-');
        }
        if id.len() >= NAME_CHARS {
            break;
        }
    }
    let name = match id.trim_end_matches('-') {
        "" => "author",
        name => name,
    };
    let hash = ContentHash::of(&email.trim().to_lowercase()).to_string();
    format!("{name}-{}", hash.get(..HASH_CHARS).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use model::UserId;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn authors_become_valid_users() {
        let long = "x".repeat(500);
        for (name, email, begins) in [
            ("Ann Example", "ann@example.org", "ann-example-"),
            ("Zoë  O'Neil (bot)", "", "zo-o-neil-bot-"),
            ("大きさ", "k@example.org", "author-"),
            ("", "", "author-"),
            ("../..", "x", "author-"),
            (&long, &long, "xxxx"),
        ] {
            let id = user_id(name, email);
            assert!(id.starts_with(begins), "{name}: {id}");
            assert!(UserId::new(&id).is_ok(), "{id}");
        }
    }

    #[test]
    fn the_address_decides_who_it_is() {
        assert_eq!(user_id("Ann", "Ann@Example.org "), user_id("Ann", "ann@example.org"));
        assert_ne!(user_id("Ann", "ann@example.org"), user_id("Ann", "ann@example.com"));
    }

    #[test]
    fn messages_stay_with_their_author_in_order() {
        let mut people = People::default();
        for (name, origin) in [("Ann", "1"), ("Bob", "2"), ("Ann", "3")] {
            let json = RawValue::from_string("{}".to_owned()).unwrap();
            people.add(name, name, Outgoing { origin: origin.to_owned(), json });
        }
        let origins: Vec<Vec<_>> = people
            .all
            .iter()
            .map(|person| person.messages.iter().map(|m| m.origin.as_str()).collect())
            .collect();
        assert_eq!(origins, [vec!["1", "3"], vec!["2"]]);
    }
}
