//! The one set of SQL functions: DataFusion's own, its nested functions, and Spark's (which win where names collide).
//!
//! A plan names its functions; whoever decodes it looks the names up. So the driver, the scheduler and the executors must all register exactly
//! this set: [`register`] does it for a session, [`registry`] for an executor.
//!
//! One trap remains: DataFusion's optimizer builds calls of *its* functions directly, even where a Spark function of the same name is
//! registered. Such a call must not turn into Spark's function on its way to an executor, so [`is_shadowed_scalar`] and its siblings let the
//! codecs mark it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use ballista_core::extension::{ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions};
use ballista_core::registry::BallistaFunctionRegistry;
use datafusion::execution::SessionStateBuilder;
use datafusion::functions::all_default_functions;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::functions_nested::{all_default_higher_order_functions, all_default_nested_functions};
use datafusion::functions_window::all_default_window_functions;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion_spark::SessionStateBuilderSpark;

use crate::date_part::{ExtractPlanner, date_part};

/// DataFusion's functions whose name a Spark function took.
struct Shadowed {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
}

static SHADOWED: LazyLock<Shadowed> = LazyLock::new(|| {
    let registry = registry();
    Shadowed {
        scalar: all_default_functions()
            .into_iter()
            .chain(all_default_nested_functions())
            .filter(|f| registry.scalar_functions.get(f.name()).is_some_and(|registered| registered != f))
            .map(|f| (f.name().to_owned(), f))
            .collect(),
        aggregate: all_default_aggregate_functions()
            .into_iter()
            .filter(|f| registry.aggregate_functions.get(f.name()).is_some_and(|registered| registered != f))
            .map(|f| (f.name().to_owned(), f))
            .collect(),
        window: all_default_window_functions()
            .into_iter()
            .filter(|f| registry.window_functions.get(f.name()).is_some_and(|registered| registered != f))
            .map(|f| (f.name().to_owned(), f))
            .collect(),
    }
});

/// Registers every function (scalar, aggregate, window, higher-order, table) and Spark's expression planner.
///
/// Call it after `with_default_features`.
#[must_use]
pub fn register(builder: SessionStateBuilder) -> SessionStateBuilder {
    let mut builder = builder
        .with_scalar_functions(scalar_functions())
        .with_aggregate_functions(ballista_aggregate_functions())
        .with_window_functions(ballista_window_functions())
        .with_higher_order_functions(all_default_higher_order_functions())
        .with_spark_features();
    builder.scalar_functions().get_or_insert_default().push(date_part());
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(ExtractPlanner));
    builder
}

/// Ballista's scalar functions, and Iceberg's transforms, by which rows are distributed.
fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut all = ballista_scalar_functions();
    all.push(chainalytics_lakehouse::write::transform_function());
    all.push(date_part());
    all
}

/// The same functions for an executor. Ballista's default registry lacks the nested (array, map, struct) functions.
#[must_use]
pub fn registry() -> Arc<BallistaFunctionRegistry> {
    Arc::new(BallistaFunctionRegistry {
        scalar_functions: by_name(scalar_functions(), ScalarUDF::name, ScalarUDF::aliases),
        aggregate_functions: by_name(ballista_aggregate_functions(), AggregateUDF::name, AggregateUDF::aliases),
        window_functions: by_name(ballista_window_functions(), WindowUDF::name, WindowUDF::aliases),
        higher_order_functions: all_default_higher_order_functions().into_iter().map(|f| (f.name().to_owned(), f)).collect(),
    })
}

/// In the order of registration, as a session state does it: each function takes its aliases, then its name, from whoever had them.
fn by_name<F>(functions: Vec<Arc<F>>, name: fn(&F) -> &str, aliases: fn(&F) -> &[String]) -> HashMap<String, Arc<F>> {
    let mut map: HashMap<String, Arc<F>> = HashMap::with_capacity(functions.len() * 2);
    for function in functions {
        for alias in aliases(&function) {
            map.insert(alias.clone(), Arc::clone(&function));
        }
        map.insert(name(&function).to_owned(), function);
    }
    map
}

/// True if this is DataFusion's function although the registered one of that name is Spark's.
pub(crate) fn is_shadowed_scalar(function: &ScalarUDF) -> bool {
    SHADOWED.scalar.get(function.name()).is_some_and(|native| native.as_ref() == function)
}

pub(crate) fn is_shadowed_aggregate(function: &AggregateUDF) -> bool {
    SHADOWED.aggregate.get(function.name()).is_some_and(|native| native.as_ref() == function)
}

pub(crate) fn is_shadowed_window(function: &WindowUDF) -> bool {
    SHADOWED.window.get(function.name()).is_some_and(|native| native.as_ref() == function)
}

pub(crate) fn shadowed_scalar(name: &str) -> Option<Arc<ScalarUDF>> {
    SHADOWED.scalar.get(name).cloned()
}

pub(crate) fn shadowed_aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    SHADOWED.aggregate.get(name).cloned()
}

pub(crate) fn shadowed_window(name: &str) -> Option<Arc<WindowUDF>> {
    SHADOWED.window.get(name).cloned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn session_and_executor_register_the_same_functions() {
        let state = register(SessionStateBuilder::new().with_default_features()).build();
        let registry = registry();
        for (name, function) in state.scalar_functions() {
            let other = registry.scalar_functions.get(name).unwrap_or_else(|| panic!("executor lacks {name}"));
            assert_eq!(function.name(), other.name(), "{name}");
            assert!(function == other, "{name} differs between session and executor");
        }
        for name in state.aggregate_functions().keys() {
            assert!(registry.aggregate_functions.contains_key(name), "executor lacks aggregate {name}");
        }
        for name in state.window_functions().keys() {
            assert!(registry.window_functions.contains_key(name), "executor lacks window function {name}");
        }
    }

    #[test]
    fn spark_and_nested_functions_are_there() {
        let registry = registry();
        for name in ["sha2", "array_length", "abs", "date_add", "json_tuple"] {
            assert!(registry.scalar_functions.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_datafusion_function_whose_name_spark_took_is_told_apart() {
        let native = datafusion::functions::datetime::date_part();
        let spark = registry().scalar_functions["date_part"].clone();
        assert!(is_shadowed_scalar(&native));
        assert!(!is_shadowed_scalar(&spark));
    }
}
