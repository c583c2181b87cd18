//! Compiles the `.proto` files with protox (pure Rust, no protoc needed) into OUT_DIR.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["chainalytics/v1/run.proto", "chainalytics/v1/executor.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    tonic_prost_build::configure().build_transport(true).bytes(".chainalytics.v1").compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
