//! What is made in a context: given back where not all of it can be had.

use std::ffi::c_void;
use std::ptr;

use super::driver::{DevicePtr, Driver, Handle};
use crate::error::{Error, Kind, Result};

/// How something is given back.
type Undo = Box<dyn FnOnce(&Driver)>;

/// What was made so far.
pub struct Made {
    driver: &'static Driver,
    undo: Vec<Undo>,
}

impl Made {
    pub fn new(driver: &'static Driver) -> Self {
        Made { driver, undo: Vec::new() }
    }

    /// All is there, and stays as long as the context.
    pub fn keep(mut self) {
        self.undo.clear();
    }

    /// Memory of the device's, all zero.
    pub fn zeroed(&mut self, bytes: usize) -> Result<DevicePtr> {
        /// Waits for no other stream, and none for it.
        const NON_BLOCKING: u32 = 1;
        let (driver, mut there, mut stream) = (self.driver, 0, ptr::null_mut());
        // SAFETY: there is room for what comes back; the memory that is set is that, a multiple of 4 bytes; the stream is not
        // used again.
        unsafe {
            driver.check((driver.allocate)(&mut there, bytes), "cuMemAlloc")?;
            self.undo.push(Box::new(move |driver| {
                (driver.free)(there);
            }));
            driver.check((driver.create_stream)(&mut stream, NON_BLOCKING), "cuStreamCreate")?;
            let mut code = (driver.set)(there, 0, bytes / 4, stream);
            if code == 0 {
                code = (driver.synchronize)(stream);
            }
            (driver.destroy_stream)(stream);
            driver.check(code, "cuMemsetD32Async")?;
        }
        Ok(there)
    }

    /// Memory of the host's, all zero, that the GPU can write: its address here and there. It is the library's and never freed:
    /// so it may be looked at after its context has ended.
    pub fn pinned(&mut self, bytes: usize) -> Result<(*mut c_void, DevicePtr)> {
        /// For all contexts, and with an address on the device.
        const FLAGS: u32 = 1 | 2;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let (driver, mut there) = (self.driver, 0);
        // SAFETY: a mapping of its own, wherever there is room, which nobody has seen when it is given back; there is room for
        // what comes back.
        unsafe {
            let here = libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0);
            if here == libc::MAP_FAILED {
                let message = format!("there are no {bytes} bytes of memory for what the GPU lands");
                return Err(Error::new(Kind::Cuda, message));
            }
            let code = (driver.register_host)(here, bytes, FLAGS);
            if code != 0 {
                libc::munmap(here, bytes);
            }
            driver.check(code, "cuMemHostRegister")?;
            self.undo.push(Box::new(move |driver| {
                (driver.unregister_host)(here);
                libc::munmap(here, bytes);
            }));
            driver.check((driver.host_pointer_on_device)(&mut there, here, 0), "cuMemHostGetDevicePointer")?;
            Ok((here, there))
        }
    }

    /// A function of a module, ready to be launched.
    pub fn function(&mut self, image: &'static str, name: &std::ffi::CStr) -> Result<Handle> {
        let (driver, mut module, mut function) = (self.driver, ptr::null_mut(), ptr::null_mut());
        // SAFETY: the image's text ends with NUL, and there is room for what comes back.
        unsafe {
            driver.check((driver.load_module)(&mut module, image.as_ptr().cast()), "cuModuleLoadData")?;
            let unload = module.addr();
            self.undo.push(Box::new(move |driver| {
                (driver.unload_module)(ptr::without_provenance_mut(unload));
            }));
            driver.check((driver.function)(&mut function, module, name.as_ptr()), "cuModuleGetFunction")?;
        }
        driver.load_now(function)?;
        Ok(function)
    }

    /// An event that measures no time.
    pub fn event(&mut self) -> Result<Handle> {
        const DISABLE_TIMING: u32 = 2;
        let (driver, mut event) = (self.driver, ptr::null_mut());
        // SAFETY: room for a handle.
        driver.check(unsafe { (driver.create_event)(&mut event, DISABLE_TIMING) }, "cuEventCreate")?;
        self.undo.push(Box::new(move |driver| {
            // SAFETY: an event that nobody has.
            unsafe { (driver.destroy_event)(event) };
        }));
        Ok(event)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.undo.drain(..).rev().for_each(|undo| undo(self.driver));
    }
}
