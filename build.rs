//! Compiles `script.cpp` and `pool.cpp` against the headers of libtorch, and writes its folder into the binary's run path, so that it
//! starts without `LD_LIBRARY_PATH`.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/infer/script.cpp");
    println!("cargo:rerun-if-changed=src/infer/pool.cpp");
    let libtorch = std::env::var("LIBTORCH").expect("set LIBTORCH to a folder with libtorch's include/ and lib/");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{libtorch}/lib");
    // As torch-sys compiles its own: the ABI of the C++ library is part of every name. What is compiled is next to nothing
    // beside what it calls.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(1)
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include(format!("{libtorch}/include"))
        .include(format!("{libtorch}/include/torch/csrc/api/include"))
        .file("src/infer/script.cpp")
        .file("src/infer/pool.cpp")
        .compile("sidelight_script");
}
