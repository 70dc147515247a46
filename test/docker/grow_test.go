//go:build docker

package docker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/history"
	"github.com/quorate-db/quorate/test/load"
	"github.com/quorate-db/quorate/test/proc"
)

// TestComposeGrow adds two containers to the cluster of the compose file, with nothing
// but `docker run`, and then kills one of the file's for good: the clients see no error,
// and both times the data is shared evenly afterwards.
func TestComposeGrow(t *testing.T) {
	c := up(t)
	admin, err := client.New(c.client())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	grace := client.Duration(5 * time.Second)
	if _, err := admin.ChangeClusterConfig(t.Context(), client.ConfigChange{DeadGrace: &grace}, 0); err != nil {
		t.Fatal(err)
	}
	h := history.NewRecorder()
	l := load.Start(t, load.Options{Endpoints: c.endpoints(), Token: c.token, Clients: 8, Rate: 300, Seed: 1, Strict: true}, h)
	pulse := load.StartPulseOf(t, c.client(), load.PulseKeys())
	lap := func(what string) {
		gaps := pulse.Lap()
		t.Logf("%s: a write waited %s at worst, %s for the median key", what, gaps[0], gaps[len(gaps)/2].Wait.Round(time.Millisecond))
	}
	running := c.client()
	balanced(t, running, 5)
	lap("nothing happens")
	for i := nodes + 1; i <= nodes+2; i++ {
		running.Endpoints = append(running.Endpoints, c.add(t, i))
	}
	balanced(t, running, 7)
	lap("two containers added")
	c.docker(t, "rm", "-f", "-v", c.container(2))
	running.Endpoints = slices.Delete(running.Endpoints, 1, 2)
	balanced(t, running, 6)
	lap("a container killed for good")
	l.Stop()
	pulse.Stop()
	l.Finish(t)
	for _, err := range l.Failures() {
		t.Errorf("an answer that no client should get: %v", err)
	}
	if err := pulse.Finish(t); err != nil {
		t.Error(err)
	}
	report, err := history.Check(h.Ops(), 2*time.Minute)
	if err != nil {
		t.Error(err)
	}
	t.Log(report)
}

// balanced waits until so many nodes share evenly.
func balanced(t *testing.T, running client.Config, nodes int) {
	t.Helper()
	var s proc.Shares
	proc.Eventually(t, healthyMax, "balanced", func(ctx context.Context) error {
		var err error
		if s, err = proc.SharesOf(ctx, running, 3); err == nil {
			err = s.Uneven(nodes)
		}
		return err
	})
	t.Logf("balanced: %s", &s)
}

// add starts one more container on the project's network, as confined as the others,
// and gives its base URL. It is removed when the test ends, before the network is.
func (c *compose) add(t *testing.T, i int) string {
	t.Helper()
	name, port := "node"+strconv.Itoa(i), proc.FreePorts(t, 1, 0)
	volume := c.name + "_data" + strconv.Itoa(i)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), commandMax)
		defer cancel()
		if t.Failed() {
			out, err := command(ctx, "", nil, "sh", "-c", `docker logs --tail 15 "$1" 2>&1`, "sh", c.container(i))
			t.Logf("%s: %v\n%s", c.container(i), err, out)
		}
		for _, args := range [][]string{{"docker", "rm", "-f", "-v", c.container(i)}, {"docker", "volume", "rm", "-f", volume}} {
			if _, err := command(ctx, "", nil, args...); err != nil {
				t.Errorf("clean up: %v", err)
			}
		}
	})
	args := []string{"run", "-d", "--name", c.container(i), "--hostname", name, "--network", c.name + "_cluster", "--network-alias", name,
		"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true",
		"-p", fmt.Sprintf("127.0.0.1:%d:7001", port), "-v", volume + ":/data", "-v", c.name + "_secret:/secret:ro"}
	for _, env := range []string{
		"QUORATE_NAME=" + name, "QUORATE_DATA_DIR=/data", "QUORATE_HTTP_LISTEN=0.0.0.0:7001", "QUORATE_PEER_LISTEN=0.0.0.0:7101",
		"QUORATE_HTTP_ADVERTISE=" + name + ":7001", "QUORATE_PEER_ADVERTISE=" + name + ":7101",
		"QUORATE_JOIN=node1:7101,node3:7101", "QUORATE_CLUSTER_SECRET_FILE=/secret/cluster.secret", "QUORATE_AUTH=true", "QUORATE_ROOT_TOKEN_FILE=/data/root.token", "QUORATE_LOG_FORMAT=json",
	} {
		args = append(args, "-e", env)
	}
	c.docker(t, append(args, c.image)...)
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}
