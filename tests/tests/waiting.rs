//! Every wait has an end: through an outage, until a time, until a deadline, until its client takes it back.

mod cancel;
mod dead;
mod deadline;
mod full;
mod large;
mod outage;
mod throttled;
