//! Link options of the shared library that cargo has no setting for.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The soname is the ABI's number: it changes only when a program that was linked before must not load the library.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libpita_redis.so.0");
    // dlclose must not pull the code from under a thread that still runs in it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,relro,-z,now");
}
