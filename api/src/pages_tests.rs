use std::future::Future as _;
use std::task::{Context, Poll, Waker};

use model::{Digest, Epoch};
use uuid::Uuid;

use super::*;

fn cursor(cursor: u64) -> Cursor {
    Cursor::new(cursor).unwrap()
}

fn key(after: u64) -> PageKey {
    PageKey { scope: ScopeRef(Uuid::nil()), after: cursor(after), limit: 100 }
}

fn page(head: u64, messages: &'static str) -> Page {
    let epoch = Epoch(Uuid::from_u128(1));
    let (floor, digest) = (Cursor::ZERO, Digest::EMPTY);
    let summary = Summary { head: cursor(head), floor, count: 1, digest, epoch, rebuilds: 0 };
    let glance = Glance { exists: true, member: None, summary };
    let messages = Bytes::from_static(messages.as_bytes());
    Page { messages, last: Some(cursor(head)), has_more: true, ..Page::empty(glance) }
}

#[test]
fn a_page_is_kept_by_where_it_begins_and_the_newest_counts() {
    let pages = Pages::new(1 << 20);
    pages.keep(key(0), &page(5, "{}"));
    assert!(pages.kept(&key(1)).is_none());
    let other_limit = PageKey { limit: 10, ..key(0) };
    assert!(pages.kept(&other_limit).is_none());
    pages.keep(key(0), &page(6, "{},{}"));
    let kept = pages.kept(&key(0)).unwrap();
    assert_eq!(kept.summary.head, cursor(6));
    let given = kept.of(page(6, "").glance());
    assert_eq!((&given.messages[..], given.last), (&b"{},{}"[..], Some(cursor(6))));
    assert!(given.has_more);
}

#[test]
fn what_was_given_to_one_who_may_not_pull_is_not_kept() {
    let pages = Pages::new(1 << 20);
    pages.keep(key(0), &page(5, ""));
    assert!(pages.kept(&key(0)).is_none());
}

#[test]
fn nothing_is_kept_where_there_is_no_room() {
    let pages = Pages::new(0);
    pages.keep(key(0), &page(5, "{}"));
    assert!(pages.kept(&key(0)).is_none());
}

#[tokio::test]
async fn one_asks_and_the_others_wait_for_that() {
    let pages = Pages::new(1 << 20);
    let mut context = Context::from_waker(Waker::noop());
    let mut first = Box::pin(pages.turn(key(0)));
    let Poll::Ready(Some(turn)) = first.as_mut().poll(&mut context) else { panic!("no turn") };
    let mut second = Box::pin(pages.turn(key(0)));
    assert!(second.as_mut().poll(&mut context).is_pending());
    let mut elsewhere = Box::pin(pages.turn(key(1)));
    assert!(matches!(elsewhere.as_mut().poll(&mut context), Poll::Ready(Some(_))));
    drop(turn); // it was answered, or whoever asked hung up
    assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(None)));
    let mut third = Box::pin(pages.turn(key(0)));
    assert!(matches!(third.as_mut().poll(&mut context), Poll::Ready(Some(_))));
}
