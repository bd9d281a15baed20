//! The CUDA driver, loaded when it is first needed: the library itself needs none.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use once_cell::race::{OnceBool, OnceBox};

use crate::error::{Error, Kind, Result};

const NAME: &CStr = c"libcuda.so.1";

/// A `CUresult`; 0 is success.
pub type Code = i32;
/// A `CUdeviceptr`.
pub type DevicePtr = u64;
/// A `CUcontext`, `CUstream`, `CUevent`, `CUmodule` or `CUfunction`.
pub type Handle = *mut c_void;

pub const NOT_READY: Code = 600;
const NO_BINARY_FOR_GPU: Code = 209;
const JIT_COMPILER_NOT_FOUND: Code = 221;
const UNSUPPORTED_PTX_VERSION: Code = 222;

/// Declares the functions that are used, by their names in the library, and how all of them are found.
macro_rules! functions {
    ($($field:ident: $symbol:literal ($($arg:ty),*);)*) => {
        /// The driver's functions; see NVIDIA's "CUDA Driver API".
        pub struct Driver {
            $(pub $field: unsafe extern "C" fn($($arg),*) -> Code,)*
            /// `cuFuncLoad`, from CUDA 12.4 on.
            load_function: Option<unsafe extern "C" fn(Handle) -> Code>,
        }

        impl Driver {
            /// Those of the library that `handle` is.
            fn of(handle: Handle) -> Result<Self> {
                $(let $field = symbol(handle, $symbol).ok_or_else(|| missing($symbol))?;)*
                // SAFETY: the symbols are the driver's functions of these types, or NULL, which is None.
                unsafe {
                    Ok(Driver {
                        $($field: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) -> Code>($field),)*
                        load_function: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(Handle) -> Code>>(
                            symbol(handle, c"cuFuncLoad").unwrap_or(ptr::null_mut()),
                        ),
                    })
                }
            }
        }
    };
}

functions! {
    init: c"cuInit" (u32);
    error_name: c"cuGetErrorName" (Code, *mut *const c_char);
    error_string: c"cuGetErrorString" (Code, *mut *const c_char);
    current_context: c"cuCtxGetCurrent" (*mut Handle);
    context_id: c"cuCtxGetId" (Handle, *mut u64);
    push_context: c"cuCtxPushCurrent_v2" (Handle);
    pop_context: c"cuCtxPopCurrent_v2" (*mut Handle);
    device: c"cuCtxGetDevice" (*mut i32);
    device_attribute: c"cuDeviceGetAttribute" (*mut i32, i32, i32);
    pointer_attribute: c"cuPointerGetAttribute" (*mut c_void, i32, DevicePtr);
    load_module: c"cuModuleLoadData" (*mut Handle, *const c_void);
    unload_module: c"cuModuleUnload" (Handle);
    function: c"cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    function_attribute: c"cuFuncGetAttribute" (*mut i32, i32, Handle);
    launch: c"cuLaunchKernel" (Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void);
    allocate: c"cuMemAlloc_v2" (*mut DevicePtr, usize);
    free: c"cuMemFree_v2" (DevicePtr);
    unregister_host: c"cuMemHostUnregister" (*mut c_void);
    register_host: c"cuMemHostRegister_v2" (*mut c_void, usize, u32);
    host_pointer_on_device: c"cuMemHostGetDevicePointer_v2" (*mut DevicePtr, *mut c_void, u32);
    set: c"cuMemsetD32Async" (DevicePtr, u32, usize, Handle);
    create_stream: c"cuStreamCreate" (*mut Handle, u32);
    destroy_stream: c"cuStreamDestroy_v2" (Handle);
    synchronize: c"cuStreamSynchronize" (Handle);
    is_capturing: c"cuStreamIsCapturing" (Handle, *mut i32);
    exchange_capture_mode: c"cuThreadExchangeStreamCaptureMode" (*mut i32);
    create_event: c"cuEventCreate" (*mut Handle, u32);
    destroy_event: c"cuEventDestroy_v2" (Handle);
    record: c"cuEventRecord" (Handle, Handle);
    query: c"cuEventQuery" (Handle);
}

static DRIVER: OnceBox<Driver> = OnceBox::new();

/// The driver, loaded now if it was not yet. [`Kind::Unsupported`] where there is none, or no GPU.
pub fn load() -> Result<&'static Driver> {
    static HAS_GPU: OnceBool = OnceBool::new();
    let driver = DRIVER.get_or_try_init(|| {
        let handle = open(0);
        if handle.is_null() {
            return Err(unsupported(format!("there is no CUDA driver: {}", last_message())));
        }
        Driver::of(handle).map(Box::new)
    })?;
    HAS_GPU.get_or_try_init(|| {
        // SAFETY: harmless when it was done before.
        match unsafe { (driver.init)(0) } {
            0 => Ok(true),
            code => Err(unsupported(format!("the CUDA driver has no use: {}", driver.words(code)))),
        }
    })?;
    Ok(driver)
}

/// The driver, if somebody has loaded it in this process. Costs next to nothing where nobody has.
pub fn loaded() -> Option<&'static Driver> {
    /// Libraries that had been loaded when it was looked for in vain.
    static SEEN: AtomicU64 = AtomicU64::new(0);
    if let Some(driver) = DRIVER.get() {
        return Some(driver);
    }
    let libraries = libraries_loaded();
    if SEEN.load(Relaxed) == libraries {
        return None;
    }
    let handle = open(libc::RTLD_NOLOAD);
    let found = if handle.is_null() { None } else { Driver::of(handle).ok() };
    match found {
        Some(driver) => Some(DRIVER.get_or_init(|| Box::new(driver))),
        None => {
            SEEN.store(libraries, Relaxed);
            None
        }
    }
}

fn open(flags: i32) -> Handle {
    // SAFETY: the driver's constructors are what its makers answer for.
    unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | flags) }
}

/// How often the process has loaded a library so far.
fn libraries_loaded() -> u64 {
    unsafe extern "C" fn read(info: *mut libc::dl_phdr_info, _size: usize, count: *mut c_void) -> i32 {
        // SAFETY: called with a valid description, and the address of a u64.
        unsafe { *count.cast::<u64>() = (*info).dlpi_adds };
        1 // The first one says it.
    }
    let mut count = 0u64;
    // SAFETY: the function is called during this call only.
    unsafe { libc::dl_iterate_phdr(Some(read), (&raw mut count).cast()) };
    count
}

fn symbol(handle: Handle, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a handle of dlopen's and a string.
    let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

fn missing(name: &CStr) -> Error {
    unsupported(format!("the CUDA driver is too old: it has no {}", name.to_string_lossy()))
}

fn last_message() -> String {
    // SAFETY: NULL, or a string that lives until this thread's next call of the kind.
    unsafe {
        let message = libc::dlerror();
        if message.is_null() { String::new() } else { CStr::from_ptr(message).to_string_lossy().into_owned() }
    }
}

pub fn unsupported(what: String) -> Error {
    Error::new(Kind::Unsupported, what)
}

impl Driver {
    /// What a code means, such as "CUDA_ERROR_INVALID_HANDLE (invalid resource handle)".
    pub fn words(&self, code: Code) -> String {
        let text = |get: unsafe extern "C" fn(Code, *mut *const c_char) -> Code| {
            let mut text = ptr::null();
            // SAFETY: room for a pointer to a constant string.
            match unsafe { get(code, &mut text) } {
                // SAFETY: the driver's own string.
                0 if !text.is_null() => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
                _ => code.to_string(),
            }
        };
        format!("{} ({})", text(self.error_name), text(self.error_string))
    }

    /// A failed call as an error of ours.
    pub fn check(&self, code: Code, what: &str) -> Result<()> {
        match code {
            0 => Ok(()),
            // The driver is older than the kernel's PTX, or has nothing that compiles it, or the GPU is older.
            NO_BINARY_FOR_GPU | JIT_COMPILER_NOT_FOUND | UNSUPPORTED_PTX_VERSION => {
                Err(unsupported(format!("CUDA: {what} fails with {}", self.words(code))))
            }
            _ => Err(Error::new(Kind::Cuda, format!("CUDA: {what} fails with {}", self.words(code)))),
        }
    }

    /// The context that is current on this thread, and a number that no later context has.
    pub fn context(&self) -> Result<(Handle, u64)> {
        let (mut context, mut id) = (ptr::null_mut(), 0);
        // SAFETY: room for a handle.
        self.check(unsafe { (self.current_context)(&mut context) }, "cuCtxGetCurrent")?;
        if context.is_null() {
            return Err(Error::invalid(
                "no CUDA context is current on this thread: cudaSetDevice, or whatever made the logits, makes one so",
            ));
        }
        // SAFETY: a context, and room for a number.
        self.check(unsafe { (self.context_id)(context, &mut id) }, "cuCtxGetId")?;
        Ok((context, id))
    }

    /// Whether work that comes onto `stream` is recorded in a graph rather than done.
    pub fn is_capturing(&self, stream: Handle) -> Result<bool> {
        let mut status = 0;
        // SAFETY: the caller's stream, and room for a number.
        self.check(unsafe { (self.is_capturing)(stream, &mut status) }, "cuStreamIsCapturing")?;
        Ok(status != 0)
    }

    /// Calls `body`, which may do what a capture by this thread would forbid otherwise, such as allocating.
    pub fn beside_captures<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        const RELAXED: i32 = 2;
        let mut mode = RELAXED;
        // SAFETY: the mode of this thread goes in and out.
        self.check(unsafe { (self.exchange_capture_mode)(&mut mode) }, "cuThreadExchangeStreamCaptureMode")?;
        let result = body();
        // SAFETY: as before.
        unsafe { (self.exchange_capture_mode)(&mut mode) };
        result
    }

    /// Loads a function now: the driver would do so at its first launch, which may be captured.
    pub fn load_now(&self, function: Handle) -> Result<()> {
        const REGISTERS: i32 = 4;
        let mut registers = 0;
        // SAFETY: a function, and room for a number.
        let code = unsafe {
            match self.load_function {
                Some(load) => load(function),
                None => (self.function_attribute)(&mut registers, REGISTERS, function),
            }
        };
        self.check(code, "cuFuncLoad")
    }

    /// The number of the device that a pointer's memory is on, where it is on one.
    pub fn device_of(&self, pointer: DevicePtr) -> Option<i32> {
        const DEVICE_ORDINAL: i32 = 9;
        let mut device = 0;
        // SAFETY: room for a number.
        let code = unsafe { (self.pointer_attribute)((&raw mut device).cast(), DEVICE_ORDINAL, pointer) };
        (code == 0).then_some(device)
    }

    /// What kind of memory a pointer leads to.
    pub fn memory(&self, pointer: *const c_void) -> Memory {
        const TYPE: i32 = 2;
        const IS_MANAGED: i32 = 8;
        const OF_DEVICE: u32 = 2;
        let attribute = |which| {
            let mut value = 0u32;
            // SAFETY: these attributes are 4 bytes or fewer.
            let code = unsafe { (self.pointer_attribute)((&raw mut value).cast(), which, pointer as DevicePtr) };
            (code == 0).then_some(value)
        };
        match attribute(TYPE) {
            None => Memory::Unknown,
            Some(_) if attribute(IS_MANAGED).is_some_and(|value| value & 0xff != 0) => Memory::Both,
            Some(OF_DEVICE) => Memory::Device,
            // Pinned.
            Some(_) => Memory::Both,
        }
    }
}

/// Who can read some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// The driver knows nothing of it: the host's.
    Unknown,
    /// A GPU alone.
    Device,
    /// Both.
    Both,
}
