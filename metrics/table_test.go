package metrics

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

func newCounted(most int) (*table[int, *int], map[int]int, *[]int) {
	created, forgotten := map[int]int{}, &[]int{}
	t := newTable(most,
		func(k int) *int { created[k]++; return &k },
		func() *int { created[-1]++; k := -1; return &k },
		func(k int) { *forgotten = append(*forgotten, k) })
	return t, created, forgotten
}

// M1: a table takes so many values and no more, and makes room again.
func TestTableIsBounded(t *testing.T) {
	table, created, forgotten := newCounted(3)
	for k := range 6 {
		want := k
		if k >= 3 {
			want = -1
		}
		for range 2 {
			if got := *table.get(k); got != want {
				t.Errorf("get(%d) = %d, want %d", k, got, want)
			}
		}
		if has := table.has(k); has != (k < 3) {
			t.Errorf("has(%d) = %t", k, has)
		}
	}
	if created[-1] != 1 || len(created) != 4 {
		t.Errorf("created %v, want 0, 1, 2 and one for the rest", created)
	}
	table.keep(func(k int) bool { return k != 1 })
	if !slices.Equal(*forgotten, []int{1}) {
		t.Errorf("forgotten %v, want [1]", *forgotten)
	}
	if got := *table.get(5); got != 5 {
		t.Errorf("get(5) = %d after room was made, want 5", got)
	}
	if got := *table.get(4); got != -1 {
		t.Errorf("get(4) = %d, want the rest", got)
	}
	table.keep(func(int) bool { return true })
	if len(*forgotten) != 1 {
		t.Errorf("forgotten %v although all were to be kept", *forgotten)
	}
}

func TestTableFromManyGoroutines(t *testing.T) {
	table, created, _ := newCounted(1000)
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 8 {
		wg.Go(func() {
			for k := range 500 {
				if got := *table.get(k); got != k {
					errs <- fmt.Errorf("get(%d) = %d", k, got)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	for k, n := range created {
		if n != 1 {
			t.Errorf("%d was made %d times", k, n)
		}
	}
}
