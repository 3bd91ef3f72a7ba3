/* Random numbers from a counter: the n-th number depends on seed and n alone. */
#include <math.h>
#include <sys/random.h>
#include <time.h>
#include "base/base.h"

uint64_t nib_rng_u64(nib_rng *r) {
    uint64_t z = r->seed + ++r->counter * 0x9e3779b97f4a7c15u; /* SplitMix64: Steele et al. 2014 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
double nib_rng_double(nib_rng *r) {
    return (double)(nib_rng_u64(r) >> 11) * 0x1p-53;
}
float nib_rng_normal(nib_rng *r) {
    double u = 1.0 - nib_rng_double(r), v = nib_rng_double(r);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v)); /* Box-Muller */
}
uint64_t nib_entropy(void) {
    uint64_t v;
    if (getrandom(&v, sizeof v, 0) == (ssize_t)sizeof v) return v;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000007u ^ (uint64_t)t.tv_nsec;
}
