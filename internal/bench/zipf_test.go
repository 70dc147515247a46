package bench

import (
	"math"
	"math/rand/v2"
	"testing"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 99)) }

// TestZeta compares with the plain sum, and with YCSB's constant for ten billion.
func TestZeta(t *testing.T) {
	sum, next := 0.0, uint64(1)
	for _, n := range []uint64{1, 2, 10, 64, 65, 100, 1000, 100_000, 3_000_000} {
		for ; next <= n; next++ {
			sum += math.Pow(float64(next), -zipfExponent)
		}
		if got := zeta(n); math.Abs(got-sum) > 1e-8 {
			t.Errorf("zeta(%d) = %.10f, want %.10f", n, got, sum)
		}
	}
	if got := zeta(scrambledItems); math.Abs(got-26.46902820178302) > 1e-6 {
		t.Errorf("zeta(1e10) = %.10f, want 26.469028202", got)
	}
}

// TestZipfFrequencies draws and compares with the probabilities that define the
// distribution: exactly for the first two, within 15 % for ranges beyond, which
// is what Gray's approximation keeps.
func TestZipfFrequencies(t *testing.T) {
	const n, draws = 1000, 1_000_000
	z, r := newZipf(n), newRand(1)
	counts := make([]float64, n)
	for range draws {
		counts[z.draw(r)]++
	}
	probability := func(from, to int) (p float64) {
		for i := from; i < to; i++ {
			p += math.Pow(float64(i+1), -zipfExponent) / zeta(n)
		}
		return p
	}
	for _, tc := range []struct {
		from, to  int
		tolerance float64
	}{{0, 1, 0.01}, {1, 2, 0.02}, {2, 10, 0.15}, {10, 100, 0.15}, {100, 500, 0.15}, {500, 1000, 0.15}} {
		got := 0.0
		for i := tc.from; i < tc.to; i++ {
			got += counts[i] / draws
		}
		want := probability(tc.from, tc.to)
		if math.Abs(got-want) > tc.tolerance*want {
			t.Errorf("items %d to %d: %.4f of the draws, want %.4f", tc.from, tc.to, got, want)
		}
	}
}

func TestZipfOfFewItems(t *testing.T) {
	for n := uint64(1); n <= 5; n++ {
		z, r := newZipf(n), newRand(n)
		seen := map[uint64]int{}
		for range 10_000 {
			seen[z.draw(r)]++
		}
		if len(seen) != int(n) {
			t.Errorf("of %d items these were drawn: %v", n, seen)
		}
		for i := uint64(1); i < n; i++ {
			if seen[i] > seen[i-1] {
				t.Errorf("of %d items, %d is more popular than %d: %v", n, i, i-1, seen)
			}
		}
	}
}

func drawMany(c *chooser, n int) map[uint64]int {
	r, seen := newRand(7), map[uint64]int{}
	for range n {
		seen[c.draw(r)]++
	}
	return seen
}

func TestUniform(t *testing.T) {
	const n, draws = 50, 500_000
	seen := drawMany(newChooser(Uniform, newKeyCounter(n)), draws)
	// Chi-squared with 49 degrees of freedom is below 85.4 in 99.9 % of runs; the
	// seed is fixed, so this either holds or does not.
	chi := 0.0
	for i := range uint64(n) {
		d := float64(seen[i]) - draws/n
		chi += d * d / (draws / n)
	}
	if len(seen) != n || chi > 85.4 {
		t.Errorf("%d of %d keys drawn, chi-squared %.1f", len(seen), n, chi)
	}
}

// TestScrambled: the most popular key has its share whatever the number of keys,
// and is not the first one.
func TestScrambled(t *testing.T) {
	for _, n := range []uint64{100, 10_000, 1_000_000} {
		const draws = 300_000
		seen := drawMany(newChooser(Zipfian, newKeyCounter(n)), draws)
		top, at := 0, uint64(0)
		for i, count := range seen {
			if i >= n {
				t.Fatalf("key %d of %d", i, n)
			}
			if count > top {
				top, at = count, i
			}
		}
		// One key gets 1/zeta of the draws; with few keys, others hash onto it as well.
		least, most := 1/zeta(scrambledItems), 1/zeta(scrambledItems)+2/float64(n)
		if share := float64(top) / draws; share < 0.97*least || share > 1.05*most {
			t.Errorf("of %d keys the most popular got %.4f of the draws, want %.4f to %.4f", n, share, least, most)
		}
		if at < 2 {
			t.Errorf("of %d keys number %d is the most popular: not scrambled", n, at)
		}
	}
}

// TestLatest: the newest is the most popular, and stays so as keys are added.
func TestLatest(t *testing.T) {
	keys := newKeyCounter(1000)
	c := newChooser(Latest, keys)
	for range 2 {
		n := keys.count()
		seen := drawMany(c, 100_000)
		want := 100_000 / zeta(n)
		if got := float64(seen[n-1]); math.Abs(got-want) > 0.05*want {
			t.Errorf("the newest of %d keys was drawn %.0f times, want %.0f", n, got, want)
		}
		if seen[n-1] <= seen[n-2] || seen[n-2] <= seen[n-10] || seen[n] != 0 {
			t.Errorf("not the latest first: %d, %d, %d", seen[n-1], seen[n-2], seen[n-10])
		}
		keys.answered(keys.take())
	}
}

// TestWorkloadMix draws kinds and compares with the parts.
func TestWorkloadMix(t *testing.T) {
	for _, w := range Workloads() {
		r, counts, sum := newRand(3), [kindCount]int{}, 0
		for range 100_000 {
			counts[w.draw(r)]++
		}
		for k, percent := range w.Parts {
			sum += percent
			if math.Abs(float64(counts[k])/1000-float64(percent)) > 0.7 {
				t.Errorf("workload %s: %d of 100000 are %s, want %d %%", w.Name, counts[k], Kind(k), percent)
			}
		}
		if sum != 100 {
			t.Errorf("workload %s adds up to %d %%", w.Name, sum)
		}
	}
	for name, want := range map[string]string{"A": "a", "ycsb-f": "f", "stale-get": "stale-get"} {
		if w, err := FindWorkload(name); err != nil || w.Name != want {
			t.Errorf("FindWorkload(%q) = %s, %v", name, w.Name, err)
		}
	}
	if _, err := FindWorkload("g"); err == nil {
		t.Error("workload g was found")
	}
}
