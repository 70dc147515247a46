package main

import (
	"testing"

	"github.com/quorate-db/quorate/client"
)

// FuzzSettings: what people type after `config set` is refused in words or is a
// setting; a size that was read is shown as text that is read the same.
func FuzzSettings(f *testing.F) {
	for i := range settings() {
		for _, text := range []string{"5", "1.5GiB", "90s", "true", "-1", "zone", "1e400", "0x10", "NaN", "9223372036854775807kib"} {
			f.Add(i, text)
		}
	}
	f.Fuzz(func(t *testing.T, which int, text string) {
		if n, err := parseSize(text); err == nil {
			if again, err := parseSize(sizeShown(n)); err != nil || n < 0 || again != n {
				t.Errorf("%q: %d, shown as %q, read as %d, %v", text, n, sizeShown(n), again, err)
			}
		}
		all := settings()
		s := all[uint(which)%uint(len(all))]
		var change client.ConfigChange
		if err := s.set(&change, text); err != nil && err.Error() == "" {
			t.Errorf("%s=%q: refused without a word", s.name, text)
		}
	})
}
