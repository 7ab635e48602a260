//! Tasks of processes on simulated time. One thread, no clock: what happens next is the next event in a queue.
//!
//! The shells of the broker are written as they are: as futures. A process that dies is one whose futures are dropped
//! between two polls; one that is stopped is one whose futures are not polled.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tollgate_model::Micros;

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub usize);

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Event = Box<dyn FnOnce()>;

#[derive(Default)]
struct Inner {
    now: Micros,
    numbered: u64,
    events: BTreeMap<(Micros, u64), Event>,
    tasks: BTreeMap<u64, (Pid, Option<Task>)>,
    ready: VecDeque<u64>,
    /// The task that is polled.
    current: u64,
    processes: Vec<Process>,
}

#[derive(Default)]
struct Process {
    is_alive: bool,
    is_stopped: bool,
    /// Tasks that would be polled if it were not stopped.
    woken: Vec<u64>,
}

/// The queue. Cheap to clone.
#[derive(Clone, Default)]
pub struct Exec(Rc<RefCell<Inner>>);

impl Exec {
    /// The simulated time.
    pub fn now(&self) -> Micros {
        self.0.borrow().now
    }

    /// A new process.
    pub fn start(&self) -> Pid {
        let mut inner = self.0.borrow_mut();
        inner.processes.push(Process { is_alive: true, ..Process::default() });
        Pid(inner.processes.len() - 1)
    }

    /// Whether a process has not died.
    pub fn is_alive(&self, process: Pid) -> bool {
        self.0.borrow().processes[process.0].is_alive
    }

    /// Whether a process would answer.
    pub fn is_running(&self, process: Pid) -> bool {
        let inner = self.0.borrow();
        let process = &inner.processes[process.0];
        process.is_alive && !process.is_stopped
    }

    /// SIGKILL.
    pub fn kill(&self, process: Pid) {
        let mut inner = self.0.borrow_mut();
        inner.processes[process.0].is_alive = false;
        let current = inner.current;
        let of: Vec<u64> = inner
            .tasks
            .iter()
            .filter(|(id, (of, _))| *of == process && **id != current)
            .map(|(id, _)| *id)
            .collect();
        let dropped: Vec<_> = of.iter().filter_map(|id| inner.tasks.remove(id)).collect();
        drop(inner);
        drop(dropped);
    }

    /// SIGSTOP.
    pub fn stop(&self, process: Pid) {
        self.0.borrow_mut().processes[process.0].is_stopped = true;
    }

    /// SIGCONT.
    pub fn cont(&self, process: Pid) {
        let mut inner = self.0.borrow_mut();
        let of = &mut inner.processes[process.0];
        of.is_stopped = false;
        let woken = std::mem::take(&mut of.woken);
        inner.ready.extend(woken);
    }

    /// A task of a process.
    pub fn spawn(&self, process: Pid, task: impl Future<Output = ()> + 'static) {
        let mut inner = self.0.borrow_mut();
        if !inner.processes[process.0].is_alive {
            return;
        }
        inner.numbered += 1;
        let id = inner.numbered;
        inner.tasks.insert(id, (process, Some(Box::pin(task))));
        inner.ready.push_back(id);
    }

    /// Something that happens by itself, after a while.
    pub fn after(&self, delay: Micros, event: impl FnOnce() + 'static) {
        let mut inner = self.0.borrow_mut();
        inner.numbered += 1;
        let at = (inner.now + delay, inner.numbered);
        inner.events.insert(at, Box::new(event));
    }

    fn wake(&self, task: u64) {
        let mut inner = self.0.borrow_mut();
        if let Some((process, _)) = inner.tasks.get(&task) {
            let process = *process;
            if inner.processes[process.0].is_stopped {
                inner.processes[process.0].woken.push(task);
            } else {
                inner.ready.push_back(task);
            }
        }
    }

    /// Polls what is ready, or lets the next event happen. `false`: there is nothing left.
    pub fn step(&self) -> bool {
        let next = self.0.borrow_mut().ready.pop_front();
        if let Some(task) = next {
            self.poll(task);
            return true;
        }
        let event = {
            let mut inner = self.0.borrow_mut();
            let Some(((at, _), event)) = inner.events.pop_first() else { return false };
            inner.now = at;
            event
        };
        event();
        true
    }

    fn poll(&self, id: u64) {
        let mut task = {
            let mut inner = self.0.borrow_mut();
            let Some((process, task)) = inner.tasks.get_mut(&id) else { return };
            let process = *process;
            let Some(task) = task.take() else { return };
            if inner.processes[process.0].is_stopped {
                inner.processes[process.0].woken.push(id);
                if let Some((_, place)) = inner.tasks.get_mut(&id) {
                    *place = Some(task);
                }
                return;
            }
            inner.current = id;
            task
        };
        let poll = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let mut inner = self.0.borrow_mut();
        inner.current = 0;
        let process = inner.tasks.get(&id).map(|(process, _)| *process);
        let lives = process.is_some_and(|process| inner.processes[process.0].is_alive);
        if poll.is_pending() && lives {
            if let Some((_, place)) = inner.tasks.get_mut(&id) {
                *place = Some(task);
            }
        } else {
            inner.tasks.remove(&id);
            drop(inner);
            drop(task);
        }
    }

    /// Drops everything: tasks and events know each other.
    pub fn clear(&self) {
        loop {
            let mut inner = self.0.borrow_mut();
            let (tasks, events) = (std::mem::take(&mut inner.tasks), std::mem::take(&mut inner.events));
            drop(inner);
            if tasks.is_empty() && events.is_empty() {
                return;
            }
            drop((tasks, events));
        }
    }

    /// A place for one value that somebody waits for.
    pub fn slot<T>(&self) -> Slot<T> {
        Slot { exec: self.clone(), place: Rc::new(Place { value: RefCell::new(None), waiter: Cell::new(0) }) }
    }

    /// Waits.
    pub async fn sleep(&self, time: Micros) {
        let slot = self.slot();
        let put = slot.clone();
        self.after(time, move || put.put(()));
        slot.get().await;
    }
}

struct Place<T> {
    value: RefCell<Option<T>>,
    waiter: Cell<u64>,
}

/// See [`Exec::slot`].
pub struct Slot<T> {
    exec: Exec,
    place: Rc<Place<T>>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self { exec: self.exec.clone(), place: Rc::clone(&self.place) }
    }
}

impl<T> Slot<T> {
    /// Puts the value there, if there is none; wakes who waits.
    pub fn put(&self, value: T) {
        let mut place = self.place.value.borrow_mut();
        if place.is_none() {
            *place = Some(value);
        }
        drop(place);
        let waiter = self.place.waiter.get();
        if waiter > 0 {
            self.exec.wake(waiter);
        }
    }

    /// Waits for the value, and takes it.
    pub async fn get(&self) -> T {
        std::future::poll_fn(|_| {
            if let Some(value) = self.place.value.borrow_mut().take() {
                self.place.waiter.set(0);
                return Poll::Ready(value);
            }
            self.place.waiter.set(self.exec.0.borrow().current);
            Poll::Pending
        })
        .await
    }
}

/// Whichever is first.
pub enum First<A, B> {
    /// The one.
    One(A),
    /// The other.
    Other(B),
}

/// Waits for one of two; the other is dropped.
pub async fn first<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> First<A, B> {
    let (mut one, mut other) = (Box::pin(one), Box::pin(other));
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = one.as_mut().poll(context) {
            return Poll::Ready(First::One(value));
        }
        other.as_mut().poll(context).map(First::Other)
    })
    .await
}

/// Waits for ever: the process has died, and will not be polled again.
pub async fn never() {
    std::future::pending::<()>().await;
}
