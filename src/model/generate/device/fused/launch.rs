//! Launches of kernels and matrix products, on candle's stream.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublas::CudaBlas;
use candle_core::cuda_backend::cudarc::cublas::result::gemm_ex;
use candle_core::cuda_backend::cudarc::cublas::sys as blas;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaStream, DevicePtr, LaunchArgs, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, WrapErr};
use candle_core::{DType, Device, Result, Storage, Tensor, bail};
use half::bf16;

/// A place in the device's memory.
pub(super) type Address = u64;
/// What a kernel takes for an argument that is left out.
pub(super) const NULL: Address = 0;

/// The kernels of `source` for `device`.
pub(super) fn compile(
    device: &CudaDevice,
    source: &str,
    definitions: &[(&str, usize)],
) -> Result<Arc<CudaModule>> {
    let stream = device.cuda_stream();
    let (major, minor) = stream.context().compute_capability().w()?;
    let mut options: Vec<String> =
        definitions.iter().map(|(name, value)| format!("-D{name}={value}")).collect();
    options.push(format!("--gpu-architecture=compute_{major}{minor}"));
    let options = CompileOptions { options, ..CompileOptions::default() };
    let compiled = compile_ptx_with_opts(source, options).w()?;
    stream.context().load_module(compiled).w()
}

/// Where the values of a tensor begin.
///
/// # Errors
/// When they are not on a GPU, not in order, or of a type that no kernel here has.
pub(super) fn address(tensor: &Tensor) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a tensor is not on the GPU") };
    if !layout.is_contiguous() {
        bail!("the values of a tensor are not in order");
    }
    let stream = storage.device.cuda_stream();
    // Everything runs on this stream, so the guard that orders streams is not needed.
    let first = match tensor.dtype() {
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        other => bail!("no kernel has the type {other:?}"),
    };
    Ok(first + (layout.start_offset() * tensor.dtype().size_in_bytes()) as Address)
}

/// Starts work on a device, in the type of a model.
pub(super) struct Launcher {
    pub device: CudaDevice,
    dtype: DType,
    stream: Arc<CudaStream>,
    blas: Arc<CudaBlas>,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Launcher({:?}, {:?})", self.device, self.dtype)
    }
}

impl Launcher {
    pub fn new(device: &CudaDevice, dtype: DType) -> Self {
        let (stream, blas) = (device.cuda_stream(), device.cublas_handle());
        Self { device: device.clone(), dtype, stream, blas }
    }

    /// Memory for `(rows, width)`, with any content.
    pub fn buffer(&self, rows: usize, width: usize) -> Result<Tensor> {
        let device = Device::Cuda(self.device.clone());
        // SAFETY: every type of a model may have any bits, and a pass writes what it reads.
        unsafe { Tensor::empty((rows, width), self.dtype, &device) }
    }

    /// A launch of `kernel`, whose arguments follow.
    pub fn kernel<'a>(&'a self, kernel: &'a CudaFunction) -> Launch<'a> {
        Launch { stream: &self.stream, kernel, values: Vec::with_capacity(24) }
    }

    /// `y = alpha·x·Wᵀ + beta·y` with `x` `(rows, in)`, `weight` `(out, in)` and `y` `(rows, out)`;
    /// sums are in f32.
    pub fn multiply(
        &self,
        x: &Tensor,
        weight: &Tensor,
        y: &Tensor,
        alpha: f32,
        beta: f32,
    ) -> Result<()> {
        use blas::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let ((rows, inputs), (outputs, _)) = (x.dims2()?, weight.dims2()?);
        if weight.dim(1)? != inputs || y.dims() != [rows, outputs] {
            bail!("no product of {:?} and {:?} is {:?}", x.shape(), weight.shape(), y.shape());
        }
        let kind = match self.dtype {
            DType::BF16 => blas::cudaDataType::CUDA_R_16BF,
            _ => blas::cudaDataType::CUDA_R_32F,
        };
        let (m, n, k) = (outputs as c_int, rows as c_int, inputs as c_int);
        let (x, weight, y) = (self.typed(x)?, self.typed(weight)?, self.typed(y)?);
        let factor = |value: &f32| std::ptr::from_ref(value).cast::<c_void>();
        // SAFETY: the shapes were checked above, and all three tensors have the type `kind`. cuBLAS
        // counts columns first: it sees Wᵀ as `(in, out)` transposed, and yᵀ = W·xᵀ.
        unsafe {
            gemm_ex(
                *self.blas.handle(),
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                m,
                n,
                k,
                factor(&alpha),
                weight as *const c_void,
                kind,
                k,
                x as *const c_void,
                kind,
                k,
                factor(&beta),
                y as *mut c_void,
                kind,
                m,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
            )
        }
        .w()
    }

    /// The address of a tensor in the model's type.
    fn typed(&self, tensor: &Tensor) -> Result<Address> {
        if tensor.dtype() != self.dtype {
            bail!("a tensor is in {:?}, not in {:?}", tensor.dtype(), self.dtype);
        }
        address(tensor)
    }
}

/// An argument of a kernel.
enum Value {
    Address(Address),
    Int(i32),
    Float(f32),
}

/// A kernel and its arguments, in the order of its declaration.
pub(super) struct Launch<'a> {
    stream: &'a CudaStream,
    kernel: &'a CudaFunction,
    values: Vec<Value>,
}

impl Launch<'_> {
    /// Pointers, or sizes of 64 bits.
    pub fn args(mut self, addresses: &[Address]) -> Self {
        self.values.extend(addresses.iter().map(|&address| Value::Address(address)));
        self
    }

    pub fn int(mut self, value: i32) -> Self {
        self.values.push(Value::Int(value));
        self
    }

    pub fn float(mut self, value: f32) -> Self {
        self.values.push(Value::Float(value));
        self
    }

    /// Starts it with this many blocks of this many threads, each block with `shared` bytes of
    /// memory.
    pub fn launch(
        self,
        blocks: (usize, usize, usize),
        threads: (usize, usize),
        shared: usize,
    ) -> Result<()> {
        let mut launch: LaunchArgs<'_> = self.stream.launch_builder(self.kernel);
        for value in &self.values {
            match value {
                Value::Address(address) => launch.arg(address),
                Value::Int(int) => launch.arg(int),
                Value::Float(float) => launch.arg(float),
            };
        }
        let config = LaunchConfig {
            grid_dim: (blocks.0 as u32, blocks.1 as u32, blocks.2 as u32),
            block_dim: (threads.0 as u32, threads.1 as u32, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: the callers pass what `kernels.cu` declares: addresses of tensors that live until
        // the stream has run the kernel, since memory is freed in the stream's order, and the sizes
        // that they were allocated with.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}
