//! `chainalytics-bench`: see `benches/README.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use chainalytics_benches::tpch::run::{Options, Side};
use chainalytics_benches::{Result, beside, freshness, lakehouse, maintenance, note, soak, streaming, tpch};
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "chainalytics-bench", about = "Benchmarks of the release binary beside other engines", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Metadata at scale: thousands of commits, a hundred thousand files; commit, plan and append times, memory
    Metadata(chainalytics_benches::wide_tables::Options),
    /// TPC-H: generate data, load it into Iceberg tables, run the 22 queries
    Tpch {
        #[command(subcommand)]
        command: Tpch,
    },
    /// Kafka to Iceberg: records a second, peak memory
    Streaming(streaming::Options),
    /// Kafka to Iceberg beside Spark on the same topics, JSON and Avro
    StreamingSpark(beside::Options),
    /// MERGE, compaction and expiry beside Spark, on copies of the same tables
    LakehouseSpark(maintenance::Options),
    /// How long after its making an event is seen in Iceberg by a reader
    Freshness(freshness::Options),
    /// A stream for a long time: memory, commit time, files, lag, minute by minute
    Soak(soak::Options),
    /// Iceberg scan and partitioned write beside DataFusion's own on the same data
    Lakehouse(lakehouse::Options),
}

#[derive(Debug, Subcommand)]
enum Tpch {
    /// Make the Parquet files of a scale in the user's cache, unless they are there
    Generate {
        #[arg(long, default_value_t = 1.0)]
        sf: f64,
    },
    /// Make the Iceberg tables of a scale in a data directory
    Load {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Run the queries on a cluster and beside it, in turn
    Run {
        #[command(flatten)]
        place: PlaceArgs,
        /// Rounds; every side runs once in each
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// How often a side runs all queries in one round
        #[arg(long, default_value_t = 2)]
        passes: usize,
        #[arg(long, default_value_t = 3)]
        executors: usize,
        #[arg(long, default_value_t = 3200)]
        port_offset: u16,
        /// Which sides run: cluster, local, duckdb, spark
        #[arg(long, value_delimiter = ',', default_value = "cluster,local,duckdb,spark")]
        sides: Vec<Side>,
        /// Numbers of queries; all by default
        #[arg(long, value_delimiter = ',')]
        queries: Vec<usize>,
        /// Configuration of the cluster's side, key=value; may be repeated
        #[arg(long)]
        conf: Vec<String>,
        /// Keep the result out of benches/results and benches/README.md
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct PlaceArgs {
    #[arg(long, default_value_t = 1.0)]
    sf: f64,
    /// The binary; by default this checkout's release build
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Data directory of the tables; by default beside the generated files
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Metadata(options) => chainalytics_benches::wide_tables::run(&options),
        Command::Tpch { command: Tpch::Generate { sf } } => {
            let dir = tpch::source_dir(sf)?;
            let made = tpch::generate::generate(&dir, sf)?;
            note(&format!("{} {}", if made { "made" } else { "found" }, dir.display()));
            Ok(())
        }
        Command::Tpch { command: Tpch::Load { place } } => {
            let mut options = options(place);
            options.reload = true;
            tpch::run::prepare(&options).map(|_| ())
        }
        Command::Tpch { command: Tpch::Run { place, rounds, passes, executors, port_offset, sides, queries, conf, dry_run } } => {
            tpch::run::run(&Options { rounds, passes, executors, port_offset, sides, queries, conf, dry_run, ..options(place) })
        }
        Command::Streaming(options) => streaming::run(&options),
        Command::StreamingSpark(options) => beside::run(&options),
        Command::LakehouseSpark(options) => maintenance::run(&options),
        Command::Freshness(options) => freshness::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Lakehouse(options) => lakehouse::run(&options),
    }
}

fn options(place: PlaceArgs) -> Options {
    Options { scale: place.sf, binary: place.binary, data_dir: place.data_dir, ..Options::default() }
}
