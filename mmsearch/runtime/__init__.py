"""What the encoders run on: ONNX Runtime sessions, torch devices, and the threads of both. Nothing else sets them.

The number of threads of this process is `Settings.threads`; it is handed down, and each engine gets its share here:

| engine       | threads                                                        | why                                  |
| ------------ | -------------------------------------------------------------- | ------------------------------------ |
| ONNX Runtime | image tower: n runs of one thread each; text tower: n, no spin | nothing waits for the slowest        |
| torch, CPU   | n runs of one thread each; n for a single picture or text      | no barrier waits for a busy loader   |
| torch, GPU   | as torch has it                                                | the work is on the device            |
| FAISS        | 1 for fewer than 16 queries, n for a batch and for building    | latency of one query                 |

NumPy multiplies a few rows beside them (hubs, tuned heads), on the threads that its BLAS takes.
Each has a pool of its own and idles when another is at work (`benchmarks/threads.py` measures that they do).
"""
