//! [`Engine`]: everything that a role (driver, scheduler, executor) needs to plan and run, made from one configuration.

use std::path::PathBuf;
use std::sync::Arc;

use ballista_core::ConfigProducer;
use ballista_core::extension::SessionConfigExt as _;
use ballista_core::optimizer::ballista_default_optimizer_rules;
use ballista_core::registry::BallistaFunctionRegistry;
use chainalytics_common::{Config, Error, Result, keys};
use chainalytics_lakehouse::StoreRegistry;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;

use crate::codec::{ChainLogicalCodec, ChainPhysicalCodec};
use crate::functions;
use crate::options::{self, Place};
use crate::planner::ChainQueryPlanner;
use crate::semi_join::PushDownSemiJoin;

/// Makes the scheduler's session for one query; the type of `ballista_scheduler::SessionBuilder`.
pub type SessionBuilder = Arc<dyn Fn(SessionConfig) -> datafusion::common::Result<SessionState> + Send + Sync>;

/// Parquet footers kept per process, in bytes. Entries are checked against size and time of change of the file.
const FOOTER_CACHE_BYTES: usize = 256 << 20;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    config: Arc<Config>,
    store: Arc<StoreRegistry>,
    /// Options for plans that run on a cluster; checked once.
    cluster_options: SessionConfig,
    logical_codec: Arc<ChainLogicalCodec>,
    physical_codec: Arc<ChainPhysicalCodec>,
}

impl Engine {
    /// Reads and checks the configuration; opens nothing.
    ///
    /// # Errors
    /// `Config` for a `ballista.`/`datafusion.` key that does not exist or a value that it does not take.
    pub fn new(config: Arc<Config>) -> Result<Self> {
        let store = StoreRegistry::from_config(&config);
        Self::with_store(config, store)
    }

    /// As [`Engine::new`], with the object stores of an opened lakehouse.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with_store(config: Arc<Config>, store: Arc<StoreRegistry>) -> Result<Self> {
        let logical_codec = Arc::new(ChainLogicalCodec::new(Arc::clone(&store)));
        let physical_codec = Arc::new(ChainPhysicalCodec::new(Arc::clone(&store)));
        let cluster_options = options::session_config(&config, Place::Cluster)?
            .with_ballista_logical_extension_codec(Arc::clone(&logical_codec) as Arc<dyn LogicalExtensionCodec>)
            .with_ballista_physical_extension_codec(Arc::clone(&physical_codec) as Arc<dyn PhysicalExtensionCodec>);
        Ok(Self { config, store, cluster_options, logical_codec, physical_codec })
    }

    /// The object stores that plans read and write through.
    #[must_use]
    pub fn store(&self) -> &Arc<StoreRegistry> {
        &self.store
    }

    #[must_use]
    pub fn logical_codec(&self) -> Arc<dyn LogicalExtensionCodec> {
        Arc::clone(&self.logical_codec) as Arc<dyn LogicalExtensionCodec>
    }

    #[must_use]
    pub fn physical_codec(&self) -> Arc<dyn PhysicalExtensionCodec> {
        Arc::clone(&self.physical_codec) as Arc<dyn PhysicalExtensionCodec>
    }

    /// Functions for an executor's tasks.
    #[must_use]
    pub fn function_registry(&self) -> Arc<BallistaFunctionRegistry> {
        functions::registry()
    }

    /// Options that scheduler and executors start from; those of a query's session are laid over them.
    #[must_use]
    pub fn config_producer(&self) -> ConfigProducer {
        let options = self.cluster_options.clone();
        Arc::new(move || options.clone())
    }

    /// Planner of logical plans with our own nodes.
    #[must_use]
    pub fn query_planner(&self) -> ChainQueryPlanner {
        ChainQueryPlanner::new(Arc::clone(&self.store))
    }

    /// The scheduler's sessions, one per query: plans only, so without a memory pool or spill files.
    ///
    /// # Errors
    /// `Internal` if DataFusion's runtime cannot be set up.
    pub fn session_builder(&self) -> Result<SessionBuilder> {
        let engine = self.clone();
        let shared = self.runtime_env(None, None)?;
        Ok(Arc::new(move |options| {
            // Sessions share footers, never file listings: those are not checked against the store, so a shared one would go stale.
            let mut builder = RuntimeEnvBuilder::from_runtime_env(&shared);
            builder.cache_manager = builder.cache_manager.with_list_files_cache(None);
            Ok(engine.state(options, builder.build_arc()?, Arc::new(engine.query_planner())))
        }))
    }

    /// A driver's state for plans that `planner` sends to a cluster. What it runs by itself is bounded by `driver.memory`.
    ///
    /// # Errors
    /// `Io` if the spill directory cannot be made.
    pub fn planning_state(&self, planner: Arc<dyn QueryPlanner + Send + Sync>) -> Result<SessionState> {
        let options = self.with_catalog(self.cluster_options.clone());
        Ok(self.state(options, self.driver_runtime()?, planner))
    }

    /// The state of `--master local[threads]`: plans and runs in this process.
    ///
    /// # Errors
    /// `Config`, `Io` if the spill directory cannot be made.
    pub fn local_state(&self, threads: usize) -> Result<SessionState> {
        let options = self.with_catalog(options::session_config(&self.config, Place::Local(threads))?);
        Ok(self.state(options, self.driver_runtime()?, Arc::new(self.query_planner())))
    }

    /// A runtime over our object stores. Without a pool memory is not bounded; without a directory spill files go to the system's.
    ///
    /// # Errors
    /// `Io` if the spill directory cannot be made.
    pub fn runtime_env(&self, pool: Option<Arc<dyn MemoryPool>>, spill_dir: Option<PathBuf>) -> Result<Arc<RuntimeEnv>> {
        let mut builder = RuntimeEnvBuilder::new()
            .with_object_store_registry(Arc::clone(&self.store) as Arc<dyn ObjectStoreRegistry>)
            .with_metadata_cache_limit(FOOTER_CACHE_BYTES);
        if let Some(pool) = pool {
            builder = builder.with_memory_pool(pool);
        }
        if let Some(dir) = spill_dir {
            builder = builder.with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![dir])));
        }
        builder.build_arc().map_err(Error::from_datafusion)
    }
}

impl Engine {
    fn state(&self, options: SessionConfig, runtime: Arc<RuntimeEnv>, planner: Arc<dyn QueryPlanner + Send + Sync>) -> SessionState {
        // `NOT IN` as a join that distributes; good in one process too, and the results stay the same.
        let mut rules = ballista_default_optimizer_rules();
        if self.config.get(&keys::QUERY_PUSH_DOWN_SEMI_JOINS) {
            rules.push(Arc::new(PushDownSemiJoin));
        }
        let builder = SessionStateBuilder::new()
            .with_config(options)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_query_planner(planner)
            .with_optimizer_rules(rules);
        functions::register(builder).build()
    }

    /// Names without a catalog and namespace mean the lakehouse's.
    fn with_catalog(&self, options: SessionConfig) -> SessionConfig {
        options
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(self.config.get(&keys::CATALOG_NAME), self.config.get(&keys::CATALOG_NAMESPACE))
    }

    fn driver_runtime(&self) -> Result<Arc<RuntimeEnv>> {
        let bytes = usize::try_from(self.config.get(&keys::DRIVER_MEMORY).as_u64()).unwrap_or(usize::MAX);
        let spill_dir = self.config.data_dir().join("tmp");
        std::fs::create_dir_all(&spill_dir).map_err(|e| Error::io(format!("cannot create {}", spill_dir.display()), e))?;
        self.runtime_env(Some(Arc::new(FairSpillPool::new(bytes))), Some(spill_dir))
    }
}
