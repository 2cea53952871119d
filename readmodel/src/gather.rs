//! Many requests' questions to the database, asked together: while one query is under way the next
//! questions gather, and one query asks them all. Under load a round trip serves hundreds.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::ReadModelError;

/// Questions in one query, at most.
const QUESTIONS_MAX: usize = 1_000;

/// Something that answers many questions at once, in the order asked.
pub trait Ask: Send + Sync + 'static {
    type Question: Send + Sync + 'static;
    type Answer: Send + 'static;

    fn ask(
        &self,
        questions: &[Self::Question],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, ReadModelError>> + Send;
}

/// Why there is no answer: shared by all whose question was in the query.
pub type Unanswered = Arc<ReadModelError>;

type Tell<A> = oneshot::Sender<Result<A, Unanswered>>;

/// Questions, and whom to tell the answers, in the same order.
type Asked<A> = (Vec<<A as Ask>::Question>, Vec<Tell<<A as Ask>::Answer>>);

/// Gathers questions for one asker.
pub struct Gather<A: Ask>(Arc<Shared<A>>);

struct Shared<A: Ask> {
    asker: A,
    gathered: Mutex<Gathered<A>>,
}

struct Gathered<A: Ask> {
    questions: Vec<A::Question>,
    tell: Vec<Tell<A::Answer>>,
    /// A task asks, and will come back for what gathers.
    asking: bool,
}

impl<A: Ask> Gather<A> {
    pub fn new(asker: A) -> Self {
        let gathered = Gathered { questions: Vec::new(), tell: Vec::new(), asking: false };
        Self(Arc::new(Shared { asker, gathered: Mutex::new(gathered) }))
    }

    /// Asks, with whoever else asks meanwhile. Must be called in a Tokio runtime.
    pub async fn ask(&self, question: A::Question) -> Result<A::Answer, Unanswered> {
        let (tell, told) = oneshot::channel();
        let begins = {
            let mut gathered = self.0.lock();
            gathered.questions.push(question);
            gathered.tell.push(tell);
            !std::mem::replace(&mut gathered.asking, true)
        };
        if begins {
            // A task of its own: a caller that hangs up must not take the others' answers along.
            tokio::spawn(ask_until_none_is_left(self.0.clone()));
        }
        told.await.unwrap_or_else(|_| Err(unasked()))
    }
}

impl<A: Ask> Shared<A> {
    fn lock(&self) -> MutexGuard<'_, Gathered<A>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has gathered, or `None`, and then nobody asks any more.
    fn take(&self) -> Option<Asked<A>> {
        let mut gathered = self.lock();
        let count = gathered.questions.len().min(QUESTIONS_MAX);
        gathered.asking = count > 0;
        if count == 0 {
            return None;
        }
        let left = gathered.questions.split_off(count);
        let left_tell = gathered.tell.split_off(count);
        let questions = std::mem::replace(&mut gathered.questions, left);
        let tell = std::mem::replace(&mut gathered.tell, left_tell);
        Some((questions, tell))
    }
}

async fn ask_until_none_is_left<A: Ask>(shared: Arc<Shared<A>>) {
    let guard = Asking(shared);
    while let Some((questions, tell)) = guard.0.take() {
        match guard.0.asker.ask(&questions).await {
            Ok(answers) => {
                for (tell, answer) in tell.into_iter().zip(answers) {
                    let _ = tell.send(Ok(answer)); // it may have hung up
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for tell in tell {
                    let _ = tell.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Lets the next question begin anew if the task that asks is cut off.
struct Asking<A: Ask>(Arc<Shared<A>>);

impl<A: Ask> Drop for Asking<A> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut gathered = self.0.lock();
            gathered.asking = false;
            gathered.questions.clear();
            gathered.tell.clear();
        }
    }
}

fn unasked() -> Unanswered {
    Arc::new(ReadModelError::Damaged("the query ended without an answer".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    struct Doubling {
        queries: Arc<AtomicUsize>,
        may_answer: Arc<Semaphore>,
    }

    impl Ask for Doubling {
        type Question = u64;
        type Answer = u64;

        async fn ask(&self, questions: &[u64]) -> Result<Vec<u64>, ReadModelError> {
            self.may_answer.acquire().await.unwrap().forget();
            self.queries.fetch_add(1, Ordering::SeqCst);
            if questions.contains(&13) {
                return Err(ReadModelError::NotMigrated);
            }
            Ok(questions.iter().map(|n| n * 2).collect())
        }
    }

    fn doubling() -> (Arc<Gather<Doubling>>, Arc<AtomicUsize>, Arc<Semaphore>) {
        let (queries, may_answer) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let asker = Doubling { queries: Arc::clone(&queries), may_answer: may_answer.clone() };
        (Arc::new(Gather::new(asker)), queries, may_answer)
    }

    #[tokio::test]
    async fn what_gathers_during_a_query_is_asked_by_the_next() {
        let (batch, queries, may_answer) = doubling();
        let asked: Vec<_> = (100..200)
            .map(|n| {
                let batch = batch.clone();
                tokio::spawn(async move { batch.ask(n).await.unwrap() })
            })
            .collect();
        tokio::task::yield_now().await;
        may_answer.add_permits(2);
        for (n, answer) in (100..200).zip(asked) {
            assert_eq!(answer.await.unwrap(), n * 2);
        }
        assert!(queries.load(Ordering::SeqCst) <= 2);
        may_answer.add_permits(1);
        assert_eq!(batch.ask(4).await.unwrap(), 8, "it begins anew");
    }

    #[tokio::test]
    async fn a_failed_query_fails_only_its_questions_and_a_caller_may_hang_up() {
        let (batch, _, may_answer) = doubling();
        let hung_up = {
            let batch = batch.clone();
            tokio::spawn(async move { batch.ask(1).await })
        };
        tokio::task::yield_now().await;
        hung_up.abort();
        may_answer.add_permits(3);
        assert!(matches!(&*batch.ask(13).await.unwrap_err(), ReadModelError::NotMigrated));
        assert_eq!(batch.ask(2).await.unwrap(), 4);
    }
}
