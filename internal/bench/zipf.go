package bench

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// zipfExponent is YCSB's: the i-th most popular of the items is chosen with
// probability proportional to 1/i^0.99.
const zipfExponent = 0.99

// scrambledItems is over how many items YCSB's scrambled distribution draws
// before it hashes onto the real ones, so that popularity does not depend on how many
// those are. The most popular key gets about 3.8 % of the requests.
const scrambledItems = 10_000_000_000

// zipf draws from 0 … n-1, 0 being the most popular, by the method of Gray et
// al., "Quickly Generating Billion-Record Synthetic Databases", SIGMOD 1994,
// which YCSB uses as well. It is exact for the two most popular items and a close
// approximation for the others.
type zipf struct {
	n     float64
	zeta  float64
	eta   float64
	alpha float64
}

func newZipf(n uint64) zipf {
	z := zipf{n: float64(n), zeta: zeta(n), alpha: 1 / (1 - zipfExponent)}
	z.eta = (1 - math.Pow(2/z.n, 1-zipfExponent)) / (1 - zeta(2)/z.zeta)
	return z
}

func (z *zipf) draw(r *rand.Rand) uint64 {
	u := r.Float64()
	uz := u * z.zeta
	switch {
	case uz < 1 || z.n <= 1:
		return 0
	case uz < 1+math.Pow(0.5, zipfExponent) || z.n <= 2:
		return 1
	}
	return min(uint64(z.n*math.Pow(z.eta*u-z.eta+1, z.alpha)), uint64(z.n)-1)
}

// zetaTerms is how many terms of a zeta sum are added one by one.
const zetaTerms = 64

// zeta gives the sum of 1/i^zipfExponent for i = 1 … n. Beyond the first terms it
// uses the Euler-Maclaurin formula, whose error here is below 1e-9: so n may be
// ten billion, or change with every call.
func zeta(n uint64) float64 {
	sum := 0.0
	for i := uint64(1); i <= min(n, zetaTerms); i++ {
		sum += math.Pow(float64(i), -zipfExponent)
	}
	if n <= zetaTerms {
		return sum
	}
	const s = zipfExponent
	a, b := float64(zetaTerms), float64(n)
	fa, fb := math.Pow(a, -s), math.Pow(b, -s)
	integral := (math.Pow(b, 1-s) - math.Pow(a, 1-s)) / (1 - s)
	// The sum over a+1 … b: the integral, half the difference of the ends, and the
	// first correction by derivatives f' = -s·x^(-s-1).
	return sum + integral + (fb-fa)/2 + (-s*fb/b+s*fa/a)/12
}

// Distribution says which keys a workload uses.
type Distribution string

// The distributions.
const (
	Uniform Distribution = "uniform"
	Zipfian Distribution = "zipfian" // scrambled: the popular keys are anywhere
	Latest  Distribution = "latest"  // the newest keys are the most popular
)

// chooser draws indexes of existing keys.
type chooser struct {
	kind      Distribution
	keys      *keyCounter
	scrambled zipf
	latest    atomic.Pointer[zipf] // for the number of keys that there were last
}

func newChooser(kind Distribution, keys *keyCounter) *chooser {
	return &chooser{kind: kind, keys: keys, scrambled: newZipf(scrambledItems)}
}

func (c *chooser) draw(r *rand.Rand) uint64 {
	n := c.keys.count()
	switch c.kind {
	case Zipfian:
		return mix(c.scrambled.draw(r)) % n
	case Latest:
		z := c.latest.Load()
		if z == nil || z.n != float64(n) {
			fresh := newZipf(n)
			z = &fresh
			c.latest.Store(z)
		}
		return n - 1 - z.draw(r)
	default:
		return r.Uint64N(n)
	}
}
