#include "scene/derive.h"

#include <algorithm>
#include <cmath>

#include "native/dispatch.h"

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#endif
#define INLINE inline __attribute__((always_inline))

namespace nanite_cull {

double determinant(const double* t) {
  return (t[0] * (t[5] * t[10] - t[6] * t[9]) - t[1] * (t[4] * t[10] - t[6] * t[8])) +
         t[2] * (t[4] * t[9] - t[5] * t[8]);
}

namespace {

constexpr double bound_slack = 1e-5;  // relative: covers the rounding of everything that follows in float
constexpr double straight = 1e-14;    // columns this close to a right angle are at one
constexpr double flatness = 1e-12;    // a determinant below that, in relation to the entries, is none

// Singular values (largest, smallest) of a 3x3 matrix: Jacobi rotations of its Gram matrix.
void singular_values(double g[3][3], double& largest, double& smallest) {
  bool turned = true;
  for (int sweep = 0; sweep < 12 && turned; ++sweep) {
    turned = false;
    for (int p = 0; p < 2; ++p)
      for (int q = p + 1; q < 3; ++q) {
        if (std::fabs(g[p][q]) <= straight * (g[p][p] + g[q][q])) continue;
        turned = true;
        const double theta = (g[q][q] - g[p][p]) / (2 * g[p][q]);
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < 3; ++k) {
          const double a = g[k][p], b = g[k][q];
          g[k][p] = c * a - s * b, g[k][q] = s * a + c * b;
        }
        for (int k = 0; k < 3; ++k) {
          const double a = g[p][k], b = g[q][k];
          g[p][k] = c * a - s * b, g[q][k] = s * a + c * b;
        }
      }
  }
  largest = std::sqrt(std::max({g[0][0], g[1][1], g[2][2]}));
  smallest = std::sqrt(std::max(0.0, std::min({g[0][0], g[1][1], g[2][2]})));
}

// Rows (i, j) of 3x4 lie at 4 i + j. Each loop over lanes is one or two vector operations.
INLINE void derive_lanes(const Transforms& in, Derived& out) {
  const auto& m = in.m;
  double cofactor[9][derived_lanes], gram[6][derived_lanes], largest[derived_lanes], smallest[derived_lanes];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      const double *ac = m[4 * ((i + 1) % 3) + (j + 1) % 3], *bd = m[4 * ((i + 2) % 3) + (j + 2) % 3],
                   *ad = m[4 * ((i + 1) % 3) + (j + 2) % 3], *bc = m[4 * ((i + 2) % 3) + (j + 1) % 3];
      for (int l = 0; l < derived_lanes; ++l) cofactor[3 * i + j][l] = ac[l] * bd[l] - ad[l] * bc[l];
    }
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      for (int l = 0; l < derived_lanes; ++l) {
        const double determinant =
            (m[0][l] * cofactor[0][l] + m[1][l] * cofactor[1][l]) + m[2][l] * cofactor[2][l];
        out.inverse[3 * i + j][l] = static_cast<float>(cofactor[3 * j + i][l] / determinant);
      }

  constexpr int row[6] = {0, 1, 2, 0, 0, 1}, column[6] = {0, 1, 2, 1, 2, 2};
  for (int e = 0; e < 6; ++e)
    for (int l = 0; l < derived_lanes; ++l)
      gram[e][l] = (m[row[e]][l] * m[column[e]][l] + m[4 + row[e]][l] * m[4 + column[e]][l]) +
                   m[8 + row[e]][l] * m[8 + column[e]][l];
  double bent[derived_lanes];
  for (int l = 0; l < derived_lanes; ++l) {
    const double a = std::fabs(gram[3][l]) - straight * (gram[0][l] + gram[1][l]),
                 b = std::fabs(gram[4][l]) - straight * (gram[0][l] + gram[2][l]),
                 c = std::fabs(gram[5][l]) - straight * (gram[1][l] + gram[2][l]);
    bent[l] = std::max(std::max(a, b), c);
    largest[l] = std::sqrt(std::max(std::max(gram[0][l], gram[1][l]), gram[2][l]));
    smallest[l] = std::sqrt(std::min(std::min(gram[0][l], gram[1][l]), gram[2][l]));
  }
  for (int l = 0; l < derived_lanes; ++l) {
    if (!(bent[l] > 0)) continue;
    double g[3][3] = {{gram[0][l], gram[3][l], gram[4][l]},
                      {gram[3][l], gram[1][l], gram[5][l]},
                      {gram[4][l], gram[5][l], gram[2][l]}};
    singular_values(g, largest[l], smallest[l]);
  }

  double reach[derived_lanes] = {};
  for (int i = 0; i < 3; ++i)
    for (int l = 0; l < derived_lanes; ++l) {
      const double x = m[4 * i][l], y = m[4 * i + 1][l], z = m[4 * i + 2][l];
      const double moved = (x * in.origin[0][l] + y * in.origin[1][l]) + z * in.origin[2][l];
      const double translation = m[4 * i + 3][l] + moved;
      const double centre = ((x * in.sphere[0][l] + y * in.sphere[1][l]) + z * in.sphere[2][l]) + translation;
      out.translation[i][l] = translation, out.centre[i][l] = static_cast<float>(centre);
      reach[l] += std::fabs(centre);
    }
  for (int l = 0; l < derived_lanes; ++l) {
    out.largest[l] = static_cast<float>(largest[l] * (1 + bound_slack));
    out.smallest[l] = static_cast<float>(smallest[l] * (1 - bound_slack));
    out.radius[l] =
        static_cast<float>((in.sphere[3][l] * double(out.largest[l])) * (1 + bound_slack) + reach[l] * 1e-6);
  }
}

INLINE bool all_placeable_lanes(const double* t, int64_t count, double reach, double farthest) {
  const double least = 1 / farthest;  // an inverse's entries are at most 2 largest^2 / determinant
  bool fine = true;
  for (int64_t i = 0; i < count; ++i, t += 12) {
    double nothing[4], size[4];  // of each column
    for (int k = 0; k < 4; ++k) {
      nothing[k] = t[k] * 0 + (t[4 + k] * 0 + t[8 + k] * 0);  // not a number where one is not finite
      size[k] = std::max(std::max(std::fabs(t[k]), std::fabs(t[4 + k])), std::fabs(t[8 + k]));
    }
    const double largest = std::max(std::max(size[0], size[1]), size[2]);
    fine &= ((nothing[0] + nothing[1]) + (nothing[2] + nothing[3]) == 0) &
            (std::fabs(determinant(t)) > std::max(flatness * largest, least) * largest * largest) &
            (size[3] + largest * reach <= farthest);
  }
  return fine;
}

#if defined(__x86_64__)
AVX2 void derive_avx2(const Transforms& in, Derived& out) { derive_lanes(in, out); }
AVX2 bool all_placeable_avx2(const double* t, int64_t count, double reach, double farthest) {
  return all_placeable_lanes(t, count, reach, farthest);
}
#endif

}  // namespace

void derive(const Transforms& in, Derived& out) {
#if defined(__x86_64__)
  if (native::isa() != native::Isa::baseline) return derive_avx2(in, out);
#endif
  derive_lanes(in, out);
}

bool all_placeable(const double* t, int64_t count, double reach, double farthest) {
#if defined(__x86_64__)
  if (native::isa() != native::Isa::baseline) return all_placeable_avx2(t, count, reach, farthest);
#endif
  return all_placeable_lanes(t, count, reach, farthest);
}

}  // namespace nanite_cull
