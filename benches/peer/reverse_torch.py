"""Times the cells of the reversal benchmark with PyTorch: dense least squares, conjugate gradients, per-frequency FFT.

Usage: reverse_torch.py OUTPUT.json SIZES, with SIZES like 16,32. Exits with 3 where torch is not installed.
"""

import json
import sys
import time

try:
    import torch
except ImportError:
    print("python3 has no torch", file=sys.stderr)
    sys.exit(3)


def dense(w, r, n, p):
    eye = torch.eye(8 * n * n).reshape(-1, 8, n, n)
    a = torch.nn.functional.conv2d(eye, w, padding=p).reshape(8 * n * n, -1).T
    return torch.linalg.lstsq(a, r.reshape(2, -1).T, driver="gelsd").solution.T.reshape(2, 8, n, n), 1, True


def gradients(w, r, n, p, steps=500, tol=1e-6):
    forward = lambda d: torch.nn.functional.conv2d(d, w, padding=p)
    adjoint = lambda y: torch.nn.functional.conv_transpose2d(y, w, padding=p)
    d, rest = torch.zeros(2, 8, n, n), r.clone()
    s = adjoint(rest)
    q, gamma = s.clone(), (s * s).sum()
    least = tol**2 * gamma
    for step in range(1, steps + 1):
        image = forward(q)
        alpha = gamma / (image * image).sum()
        d, rest = d + alpha * q, rest - alpha * image
        if rest.norm() <= tol * r.norm():
            return d, step, True
        s = adjoint(rest)
        gamma, before = (s * s).sum(), gamma
        if gamma <= least:
            return d, step, True
        q = s + gamma / before * q
    return d, steps, False


def frequency(w, r, n, p):
    size = n + 2 * p
    kernel = torch.fft.rfft2(w, s=(size, size)).conj().permute(2, 3, 0, 1)
    padded = torch.zeros(2, w.shape[0], size, size)
    padded[..., : r.shape[2], : r.shape[3]] = r
    wanted = torch.fft.rfft2(padded).permute(2, 3, 1, 0)
    found = torch.linalg.pinv(kernel) @ wanted
    d = torch.fft.irfft2(found.permute(3, 2, 0, 1), s=(size, size))
    return d[..., p : p + n, p : p + n], 1, True


def main():
    out, sizes = sys.argv[1], [int(size) for size in sys.argv[2].split(",")]
    entries = []
    for n in sizes:
        for c_out in (4, 8, 16):
            for p in (0, 1, 2):
                for condition in (1.0, 1e3, 1e5):
                    torch.manual_seed(0)
                    u = torch.linalg.qr(torch.randn(c_out, c_out))[0]
                    v = torch.linalg.qr(torch.randn(200, c_out))[0]
                    sigma = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), c_out)
                    w = (u * sigma @ v.T).reshape(c_out, 8, 5, 5)
                    v0 = torch.randn(2, 8, n, n)
                    image = torch.nn.functional.conv2d(v0, w, padding=p)
                    r = torch.rand_like(image)
                    for name, solve in (("dense", dense), ("cg", gradients), ("fft", frequency)):
                        if name == "dense" and n > 16:
                            continue
                        begin = time.perf_counter()
                        solve(w, r, n, p)
                        first = time.perf_counter() - begin
                        begin = time.perf_counter()
                        d, steps, converged = solve(w, r, n, p)
                        warm = time.perf_counter() - begin
                        rest = r - torch.nn.functional.conv2d(d, w, padding=p)
                        if not d.isfinite().all():
                            print(f"torch-{name} overflows: {n}x{n}, 8->{c_out}, padding {p}, {condition:g}", file=sys.stderr)
                            continue
                        entries.append({
                            "size": n, "padding": p, "c_in": 8, "c_out": c_out, "kernel": 5, "stride": 1,
                            "batch": 2, "condition": condition, "seed": 0, "method": f"torch-{name}",
                            "recipe": "PyTorch", "dtype": "f32", "threads": torch.get_num_threads(),
                            "first_ms": 1e3 * first, "warm_ms": 1e3 * warm,
                            "residual_relative": (rest.norm() / (image + r).norm()).item(), "residual_optimum": None,
                            "distance_relative": (d.norm() / v0.norm()).item(), "distance_optimum": None,
                            "optimum_by": None, "regularised": False, "lambda": 0.0, "iterations": steps,
                            "converged": converged,
                        })
    with open(out, "w", encoding="utf-8") as file:
        json.dump(entries, file, indent=1)


main()
