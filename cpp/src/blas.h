// The one door to the BLAS: matrix products of row-major matrices by the calling thread alone.
#pragma once

#include <cblas.h>

#include <cstddef>

#ifdef NNPAR_SCIPY_OPENBLAS  // pip's build of OpenBLAS puts a prefix before its names
extern "C" void scipy_openblas_set_num_threads(int num_threads);
extern "C" char* scipy_openblas_get_config();
#define NNPAR_BLAS(name) scipy_##name
#else
#define NNPAR_BLAS(name) name
#endif

namespace nnpar::blas {

// Our threads each take examples of their own; those of the BLAS would only get in their way.
inline void use_one_thread() {
    NNPAR_BLAS(openblas_set_num_threads)(1);
}

inline const char* description() {
    return NNPAR_BLAS(openblas_get_config)();
}

enum class Form { kPlain, kTransposed };

// c [m, n] = a b, where a is [m, k] and b [k, n], or [n, k] and to be transposed.
inline void multiply(Form form_b, std::size_t m, std::size_t n, std::size_t k, const float* a,
                     const float* b, float* c) {
    const auto rows = static_cast<int>(m);
    const auto columns = static_cast<int>(n);
    const auto depth = static_cast<int>(k);
    const bool plain = form_b == Form::kPlain;
    NNPAR_BLAS(cblas_sgemm)
    (CblasRowMajor, CblasNoTrans, plain ? CblasNoTrans : CblasTrans, rows, columns, depth, 1.0F, a,
     depth, b, plain ? columns : depth, 0.0F, c, columns);
}

// c [m, n] = beta c + a^T b, where a is m columns of a matrix [k, stride] and b is [k, n].
inline void multiply_columns(std::size_t stride, std::size_t m, std::size_t n, std::size_t k,
                             const float* a, const float* b, float beta, float* c) {
    const auto columns = static_cast<int>(n);
    NNPAR_BLAS(cblas_sgemm)
    (CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(m), columns, static_cast<int>(k),
     1.0F, a, static_cast<int>(stride), b, columns, beta, c, columns);
}

}  // namespace nnpar::blas
