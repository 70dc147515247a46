//go:build blackbox

// Package scale loads more data into real processes than a test of behaviour needs, and
// measures: rates, gaps, the time to rebuild what a lost machine held, memory.
//
// QUORATE_SCALE_MIB says how much; QUORATE_TEST_LOGS names a folder for the nodes' logs.
package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/load"
	"github.com/quorate-db/quorate/test/proc"
)

var builder proc.Builder

func TestMain(m *testing.M) {
	code := m.Run()
	builder.Remove()
	os.Exit(code)
}

// grace is the dead_grace of the cluster.
const grace = 5 * time.Second

// scaleMax bounds each part of TestScale.
const scaleMax = 20 * time.Minute

// diskFactor is how much of the disk so many bytes of data may take for a while: three
// copies, as many in the logs, and what is being compacted or sent.
const diskFactor = 12

// scaleBytes gives how much data TestScale loads: 256 MiB, or QUORATE_SCALE_MIB.
func scaleBytes(t testing.TB) int64 {
	n := int64(256)
	if text := os.Getenv("QUORATE_SCALE_MIB"); text != "" {
		var err error
		if n, err = strconv.ParseInt(text, 10, 64); err != nil || n < 1 {
			t.Fatalf("QUORATE_SCALE_MIB=%q: want a number from 1", text)
		}
	}
	return n << 20
}

// filled is what `bench load --bytes` says of itself in JSON.
type filled struct {
	Ops            int64   `json:"ops"`
	Failed         int64   `json:"failed"`
	Seconds        float64 `json:"seconds"`
	Bytes          int64   `json:"bytes"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	Wrong          int64   `json:"wrong"`
}

// TestScale loads distinct data into five nodes, which begin with one shard, kills one
// for good, and reads every key while its replicas are rebuilt on the others. It logs
// a table for docs/PERFORMANCE.md.
func TestScale(t *testing.T) {
	bytes := scaleBytes(t)
	dir := t.TempDir()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < diskFactor*bytes {
		t.Skipf("%d MiB free below %s, want %d MiB", free>>20, dir, diskFactor*bytes>>20)
	}
	c := proc.Start(t, builder.Binary(t, false), proc.Shape{Shards: 1, DataDir: dir})
	deadGrace, splitBytes, none := client.Duration(grace), bytes/16, int64(0)
	c.Configure(t, client.ConfigChange{DeadGrace: &deadGrace, SplitBytes: &splitBytes, MergeBytes: &none})
	table := &scaleTable{t: t, begin: time.Now()}
	pulse := load.StartPulse(t, c.Endpoints(), load.PulseKeys())

	loaded := fill(t, c, bytes)
	table.add("loaded", fmt.Sprintf("%d keys, %d MiB", loaded.Ops, loaded.Bytes>>20))
	table.add("load rate", fmt.Sprintf("%.1f MiB/s, %.0f puts/s", loaded.BytesPerSecond/(1<<20), float64(loaded.Ops)/loaded.Seconds))
	begin := time.Now()
	s := c.WaitBalanced(t, scaleMax, 5, 3)
	table.add("even after the load", ms(time.Since(begin)))
	table.add("shards", fmt.Sprint(len(s.Shards)))
	table.add("data a node", s.String())
	table.add("largest write gap, load and splits", pulse.Lap()[0].String())
	table.add("memory a node, now and at most", memory(c))
	if len(s.Shards) < 8 {
		t.Errorf("%d shards, want at least 8", len(s.Shards))
	}

	rebuilt := make(chan error, 1)
	var took time.Duration
	if err := c.Kill(3); err != nil {
		t.Fatal(err)
	}
	go func() {
		begin := time.Now()
		err := proc.Await(t.Context(), scaleMax, func(ctx context.Context) error {
			s, err := c.Shares(ctx, 3)
			if err == nil {
				err = s.Uneven(4)
			}
			return err
		})
		took = time.Since(begin)
		rebuilt <- err
	}()
	checked := fill(t, c, bytes, "--verify")
	table.add("every key read meanwhile", fmt.Sprintf("%d, %.1f MiB/s", checked.Ops, checked.BytesPerSecond/(1<<20)))
	if checked.Ops != loaded.Ops || checked.Bytes < bytes {
		t.Errorf("%d keys of %d bytes verified, want %d of %d", checked.Ops, checked.Bytes, loaded.Ops, bytes)
	}
	if err := <-rebuilt; err != nil {
		t.Fatalf("not rebuilt within %s: %v", scaleMax, err)
	}
	table.add(fmt.Sprintf("one of five killed: rebuilt and even again (dead_grace %s)", grace), ms(took))
	table.add("largest write gap, kill and rebuild", pulse.Lap()[0].String())
	again := fill(t, c, bytes, "--verify")
	table.add("every key read afterwards", fmt.Sprint(again.Ops))
	table.add("memory a node, now and at most", memory(c))
	table.add("disk a node", diskUse(c))
	pulse.Stop()
	if err := pulse.Finish(t); err != nil {
		t.Error(err)
	}
	t.Logf("at scale:\n\n%s", table)
}

// fill writes distinct data, or verifies it.
func fill(t testing.TB, c *proc.Cluster, bytes int64, args ...string) filled {
	t.Helper()
	var endpoints []string
	for _, i := range c.RunningNodes() {
		endpoints = append(endpoints, c.Endpoint(i))
	}
	got := proc.RunFor(t, scaleMax, builder.Binary(t, false), "", append([]string{"bench", "load", "--bytes", strconv.FormatInt(bytes, 10),
		"--retry", "--clients", "32", "-o", "json", "--endpoint", strings.Join(endpoints, ",")}, args...)...)
	if got.Code != 0 {
		t.Fatalf("bench load %s: exit code %d\n%s%s", args, got.Code, got.Stdout, got.Stderr)
	}
	var f filled
	if err := json.Unmarshal([]byte(got.Stdout), &f); err != nil {
		t.Fatalf("%v: %s", err, got.Stdout)
	}
	if f.Failed > 0 || f.Wrong > 0 || f.Ops == 0 {
		t.Errorf("bench load %s: %+v\n%s", args, f, got.Stderr)
	}
	return f
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// memory gives the resident memory of each node, now and at its most.
func memory(c *proc.Cluster) string {
	var out []string
	for _, i := range c.RunningNodes() {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.PID(i)), "status"))
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		figure := func(name string) int64 {
			_, rest, _ := strings.Cut(string(status), name+":")
			var kib int64
			_, _ = fmt.Sscanf(rest, "%d kB", &kib)
			return kib >> 10
		}
		out = append(out, fmt.Sprintf("%d/%d", figure("VmRSS"), figure("VmHWM")))
	}
	return strings.Join(out, ", ") + " MiB"
}

// diskUse gives what each running node's folder takes.
func diskUse(c *proc.Cluster) string {
	var out []string
	for _, i := range c.RunningNodes() {
		total := int64(0)
		// Files come and go while this looks.
		_ = filepath.WalkDir(filepath.Join(c.DataDir, fmt.Sprintf("node%d", i)), func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					total += info.Size()
				}
			}
			return nil
		})
		out = append(out, fmt.Sprint(total>>20))
	}
	return strings.Join(out, ", ") + " MiB"
}

// scaleTable is a table in Markdown. Each row is also logged when it is added: with
// much data the test takes long.
type scaleTable struct {
	t     testing.TB
	begin time.Time
	rows  []string
}

func (s *scaleTable) add(what, value string) {
	s.t.Logf("after %s: %s: %s", time.Since(s.begin).Round(time.Second), what, value)
	s.rows = append(s.rows, "| "+what+" | "+value+" |")
}

func (s *scaleTable) String() string {
	return "| at scale | |\n|---|---|\n" + strings.Join(s.rows, "\n") + "\n"
}
