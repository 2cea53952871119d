//! Metadata: one text for one value.

use model::Metadata;
use proptest::prelude::*;
use serde_json::{Number, Value, json};

fn canonical(json: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).unwrap();
    Metadata::new(&value).ok().map(|metadata| metadata.as_str().to_owned())
}

#[test]
fn canonical_texts() {
    for (sent, kept) in [
        (r#"{ "b" : 1, "a" : [ true, null ] }"#, r#"{"a":[true,null],"b":1}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"n":[1.0,1e2,-0,0.000001,1e-7]}"#, r#"{"n":[1,100,0,0.000001,1e-7]}"#),
        (r#"{"n":9007199254740992}"#, r#"{"n":9007199254740992}"#),
        (r#"{"n":[1e21,-1.5e300]}"#, r#"{"n":[1e+21,-1.5e+300]}"#),
        (r#"{"\u00e9":"\u00e9\u001f\u007f\/"}"#, "{\"é\":\"é\\u001f\u{7f}/\"}"),
    ] {
        assert_eq!(canonical(sent).as_deref(), Some(kept));
    }
}

#[test]
fn numbers_that_would_come_back_as_another_or_not_at_all() {
    for number in ["9007199254740993", "-9007199254740993", "1e16", "1e19", "18446744073709551616"]
    {
        assert_eq!(canonical(&format!("{{\"n\":{number}}}")), None, "{number}");
    }
}

fn values() -> impl Strategy<Value = Value> {
    let double = any::<f64>().prop_filter_map("infinite", Number::from_f64);
    let leaf = prop_oneof![
        double.prop_map(Value::Number),
        any::<i32>().prop_map(|n| json!(n)),
        (0..2_000_000_i64).prop_map(|n| json!(n as f64 * 1e12)),
        ".{0,6}".prop_map(Value::String),
        Just(Value::Null),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::hash_map(".{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What a pull gives can be pushed again, and is the same.
    #[test]
    fn what_was_kept_is_kept_again(value in values()) {
        if let Ok(kept) = Metadata::new(&json!({"a": value})) {
            prop_assert_eq!(canonical(kept.as_str()), Some(kept.as_str().to_owned()));
        }
    }
}
