//! A device's line to the servers: requests and answers are lost, come twice, or late.

use std::{
    cell::RefCell,
    pin::Pin,
    task::{Context, Poll},
};

use device::{
    Requests,
    problem::ClientError,
    retry::RetryPolicy,
    wire::{Fetched, PullFrom, PullPage, Reconciled},
};
use model::{Cursor, DeviceId, Epoch, Item, PushAnswer, reconcile::Claim};
use serde_json::value::RawValue;

use crate::{
    Violation,
    cast::Seat,
    machine::KEY,
    world::{Accepted, Push, World, answer, unreachable},
};

/// Turns that a push is waited for.
const PATIENCE: u32 = 60;

#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub world: &'a RefCell<World>,
    pub seat: &'a Seat,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Lost,
    AnswerLost,
    /// It comes twice.
    Twice,
    /// It comes once more, later.
    Late,
}

/// Lets others go first.
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Line<'_> {
    fn fate(&self) -> Fate {
        let mut world = self.world.borrow_mut();
        let faults = world.faults;
        if !world.random.chance(faults) {
            return Fate::Answered;
        }
        [Fate::Lost, Fate::AnswerLost, Fate::Twice, Fate::Late][world.random.below(4)]
    }

    /// Asks for something that changes nothing, until it is answered, or is no use.
    async fn ask<T>(
        &self,
        work: impl Fn(&mut World) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut retry = 0;
        loop {
            Pause(false).await;
            let answered = match self.fate() {
                Fate::Lost | Fate::AnswerLost => Err(unreachable("the answer is lost")),
                Fate::Answered | Fate::Twice | Fate::Late => work(&mut self.world.borrow_mut()),
            };
            match answered {
                Ok(answer) => return Ok(answer),
                Err(error) => self.wait(&mut retry, error)?,
            }
        }
    }

    /// As the contract's client retry.
    fn wait(&self, retry: &mut u32, error: ClientError) -> Result<(), ClientError> {
        let delay = RetryPolicy::CONTRACT.delay(*retry, error.retry_after(), 0.0);
        let Some(delay) = delay.filter(|_| error.is_temporary()) else { return Err(error) };
        *retry += 1;
        self.world.borrow_mut().pass(delay.as_secs() as u32);
        Ok(())
    }

    async fn push_once(&self, push: &Push) -> Result<PushAnswer, ClientError> {
        Pause(false).await;
        let fate = self.fate();
        if fate == Fate::Lost {
            return Err(unreachable("the request is lost"));
        }
        let (life, accepted) = {
            let mut world = self.world.borrow_mut();
            let accepted = world.accept(push)?;
            match fate {
                Fate::Twice => drop(world.accept(push)),
                Fate::Late => world.late.push(push.clone()),
                Fate::Answered | Fate::Lost | Fate::AnswerLost => {}
            }
            (world.life, accepted)
        };
        let outcome = match accepted {
            Accepted::Known(outcome) => outcome,
            Accepted::Waiting(id) => {
                let mut turns = 0;
                loop {
                    Pause(false).await;
                    let world = self.world.borrow();
                    if world.life != life {
                        return Err(unreachable("the server is gone"));
                    }
                    if let Some(outcome) = world.rows.outcome(id) {
                        break outcome;
                    }
                    turns += 1;
                    if turns > PATIENCE {
                        return Err(unreachable("no outcome in time"));
                    }
                }
            }
        };
        if fate == Fate::AnswerLost {
            return Err(unreachable("the answer is lost"));
        }
        answer(&outcome)
    }
}

impl Requests for Line<'_> {
    async fn push(
        &self,
        key: String,
        epoch: Option<Epoch>,
        messages: Vec<&RawValue>,
    ) -> Result<PushAnswer, ClientError> {
        // A key that was made at random is not the seed's.
        let key = match key.starts_with(KEY) {
            true => key,
            false => format!("key {}", self.world.borrow_mut().id()),
        };
        let push = Push {
            scope: self.seat.scope.clone(),
            actor: self.seat.user.clone(),
            device: DeviceId::new(&format!("device-{}", self.seat.number)).unwrap(),
            key,
            epoch,
            messages: messages.into_iter().map(ToOwned::to_owned).collect(),
        };
        let mut retry = 0;
        loop {
            match self.push_once(&push).await {
                Ok(answer) => {
                    self.world.borrow_mut().witness.acknowledged(&self.seat.scope, &answer);
                    return Ok(answer);
                }
                Err(error) => self.wait(&mut retry, error)?,
            }
        }
    }

    async fn pull(&self, from: PullFrom) -> Result<PullPage, ClientError> {
        let page = self.ask(|world| world.pull(self.seat, from)).await?;
        let mut last = Cursor::new(from.cursor).unwrap();
        for message in &page.messages {
            let pulled: device::wire::Pulled = serde_json::from_str(message.get()).unwrap();
            if pulled.cursor <= last {
                let what =
                    format!("a pull from {} gives {} after {last}", from.cursor, pulled.cursor);
                self.world.borrow_mut().violation.get_or_insert(Violation(what));
            }
            last = pulled.cursor;
        }
        Ok(page)
    }

    async fn reconcile(
        &self,
        claim: &Claim,
        epoch: Option<Epoch>,
    ) -> Result<Reconciled, ClientError> {
        self.ask(|world| world.reconcile(self.seat, claim, epoch)).await
    }

    async fn compare(&self, frame: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.ask(|world| world.compare(self.seat, &frame)).await
    }

    async fn fetch(&self, items: &[Item]) -> Result<Fetched, ClientError> {
        self.ask(|world| world.fetch(self.seat, items)).await
    }
}
