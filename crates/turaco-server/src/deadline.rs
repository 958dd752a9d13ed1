//! When a request has to be answered: counted from its first byte, whatever it waits for.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::error::ApiError;

tokio::task_local! {
    static DEADLINE: Option<Instant>;
}

/// Do what belongs to a request that has just come in; [`of_request`] is its deadline meanwhile.
pub async fn within<T>(app: &App, work: impl Future<Output = T>) -> T {
    DEADLINE
        .scope(from_now(app.config().request_timeout), work)
        .await
}

/// The deadline of the request that is worked on; for work that belongs to none, as long from now as a request may take.
pub fn of_request(app: &App) -> Option<Instant> {
    let known = DEADLINE.try_with(|deadline| *deadline);
    known.unwrap_or_else(|_| from_now(app.config().request_timeout))
}

/// Wait for something until then.
///
/// # Errors
/// It takes longer.
pub async fn until<T>(
    deadline: Option<Instant>,
    waited: impl Future<Output = T>,
) -> Result<T, ApiError> {
    match deadline {
        None => Ok(waited.await),
        Some(deadline) => timeout_at(deadline, waited).await.map_err(|_| over()),
    }
}

/// The request took longer than it may.
pub fn over() -> ApiError {
    ApiError::timed_out("the request took longer than it may")
}

fn from_now(limit: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(limit?)
}
