"""What SGLang asks for on a CPU and no package index has. Used for ``device=cpu`` alone, inside SGLang's process.

- ``sgl_kernel``: SGLang imports its kernels by name. The build for CPUs is not published; the published one is for CUDA.
  On a CPU without AMX SGLang computes with plain torch and calls one of them, which is written here in torch. The others
  fail when they are called. A real ``sgl_kernel`` in the environment goes first.
- ``torchvision``: the package index has the CUDA build, whose operators ``nms`` and ``qnms`` are missing beside a CPU
  build of torch; it fails on import unless they are declared.
- Pinned memory: SGLang's LoRA code asks for it on every device, and torch refuses without an accelerator.
"""
