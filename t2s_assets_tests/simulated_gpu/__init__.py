"""A CUDA device that is not there, for tests of what only runs on one, on machines without a GPU.

Its tensors (`device.OnDevice`) say that they are on `cuda:0` and hold tensors of the CPU, which compute for them. They
refuse to meet a CPU's tensors as CUDA's do, so that a mask or an index left on the wrong device is found here. Nothing
is learnt of kernels, number formats, memory or speed.

Torch itself has to know a device to run autograd for it: `device.cpp` registers one, in a library that has to be
loaded before torch asks (LD_PRELOAD).
"""
