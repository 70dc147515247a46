//go:build blackbox

package blackbox

import (
	"bytes"
	"os/exec"
	"sync"
	"testing"
)

// alone is one node that a test starts by itself.
type alone struct {
	mu  sync.Mutex
	log bytes.Buffer
}

// Write takes what it logs.
func (a *alone) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.Write(p)
}

func (a *alone) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

// startAlone starts `quorate serve`, which ends when the test does.
func startAlone(t *testing.T, args ...string) *alone {
	t.Helper()
	a := &alone{}
	cmd := exec.Command(binary(t), append([]string{"serve"}, args...)...)
	cmd.Stderr = a
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return a
}
