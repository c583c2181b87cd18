//! The memory of tasks: one budget for the process, split by cores, and what of it is reserved right now.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ballista_executor::runtime_cache::MemoryPoolPolicy;
use chainalytics_common::{Error, ErrorCode, Result};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;

/// Bytes that running tasks have reserved, over all their pools.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved(Arc<AtomicUsize>);

impl Reserved {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed) as u64
    }
}

/// The pool of one task, which adds what it grants to the process's account.
#[derive(Debug)]
struct TaskPool {
    inner: FairSpillPool,
    account: Reserved,
}

impl fmt::Display for TaskPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl MemoryPool for TaskPool {
    fn name(&self) -> &str {
        "task"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
        self.account.0.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
        self.account.0.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> datafusion::error::Result<()> {
        self.inner.try_grow(reservation, additional)?;
        self.account.0.fetch_add(additional, Ordering::Relaxed);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

/// Gives each task `total_bytes / cores` for every core it was given, in a pool of its own, so that the tasks together never exceed
/// `total_bytes` and none starves another. Operators spill to disk when their task's pool is used up.
///
/// # Errors
/// [`ErrorCode::Config`] if less than one byte falls to a core.
pub(crate) fn policy(total_bytes: u64, cores: usize, account: Reserved) -> Result<MemoryPoolPolicy> {
    let per_core = usize::try_from(total_bytes / (cores.max(1) as u64)).unwrap_or(usize::MAX);
    if per_core == 0 {
        return Err(Error::new(ErrorCode::Config, format!("executor.memory is {total_bytes} bytes, too little for {cores} cores")));
    }
    Ok(Arc::new(move |base, _config, cores_of_task| {
        let size = per_core.saturating_mul(cores_of_task.max(1) as usize);
        let pool = TaskPool { inner: FairSpillPool::new(size), account: account.clone() };
        RuntimeEnvBuilder::from_runtime_env(&base).with_memory_pool(Arc::new(pool)).build_arc()
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionConfig;

    #[test]
    fn a_task_gets_its_share_and_the_account_follows() {
        let account = Reserved::default();
        let policy = policy(4000, 4, account.clone()).unwrap();
        let env = policy(Arc::new(RuntimeEnv::default()), &SessionConfig::new(), 2).unwrap();
        let reservation = MemoryConsumer::new("test").register(&env.memory_pool);
        reservation.try_grow(1500).unwrap();
        assert_eq!(account.bytes(), 1500);
        assert!(reservation.try_grow(1000).is_err());
        assert_eq!(account.bytes(), 1500);
        drop(reservation);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_budget_below_one_byte_a_core_is_refused() {
        assert!(policy(3, 4, Reserved::default()).is_err());
    }
}
