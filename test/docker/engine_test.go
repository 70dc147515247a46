//go:build docker

// Package docker tests the image and the compose file that the README promises: a
// cluster of containers, each killed, paused, and cut off from the others.
//
// It touches only what it has made itself, and removes it at the end.
package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/client"
	"github.com/quorate-db/quorate/test/proc"
)

const (
	nodes = 5
	// commandMax bounds one command of docker or compose.
	commandMax = 3 * time.Minute
	// healthyMax bounds how long containers may take to become healthy: their check
	// runs every five seconds.
	healthyMax = 2 * time.Minute
)

// compose is one project of the compose file.
type compose struct {
	root    string
	command []string // "docker compose" or "docker-compose"
	name    string   // of the project, and prefix of its containers
	image   string
	port    int // of node 1; the others follow
	env     []string
	token   string // the root token
}

// command runs a command and gives its standard output.
func command(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// engine skips the test if there is no engine that answers, or no compose.
func engine(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := command(ctx, "", nil, "docker", "version", "--format", "{{.Server.Version}}"); err != nil {
		t.Skipf("no Docker engine answers: %v", err)
	}
	for _, candidate := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if _, err := command(ctx, "", nil, append(candidate, "version")...); err == nil {
			return candidate
		}
	}
	t.Skip("neither docker compose nor docker-compose is there")
	return nil
}

// up builds the image around a binary of this tree, starts the compose file as it
// is, and waits until all containers are healthy.
func up(t *testing.T) *compose {
	t.Helper()
	c := &compose{command: engine(t), root: proc.Root(t), port: proc.FreePorts(t, nodes, 0)}
	c.name = "quorate-test-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	c.image = c.name + ":prebuilt"
	c.env = []string{"QUORATE_PREFIX=" + c.name, "QUORATE_IMAGE=" + c.image}
	for i := 1; i <= nodes; i++ {
		c.env = append(c.env, fmt.Sprintf("QUORATE_PORT%d=%d", i, c.port+i-1))
	}
	t.Cleanup(func() { c.down(t) })
	c.build(t)
	c.run(t, "up", "-d", "--no-build")
	c.waitHealthy(t)
	c.token = c.rootToken(t)
	return c
}

// rootToken takes the root token out of a container as docker-compose.yml says.
func (c *compose) rootToken(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.token")
	proc.Eventually(t, healthyMax, "root token", func(ctx context.Context) error {
		_, err := command(ctx, "", nil, "docker", "cp", c.container(1)+":/tokens/root.token", path)
		return err
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// client is how clients of the whole cluster are configured.
func (c *compose) client() client.Config {
	return client.Config{Endpoints: c.endpoints(), Token: c.token}
}

// do sends a request to node i, with the root token.
func (c *compose) do(t *testing.T, i int, method, path, body string) proc.Answer {
	t.Helper()
	a, err := proc.DoAs(t.Context(), c.token, method, c.endpoint(i)+path, body, limit)
	if err != nil {
		t.Fatalf("%s %s at node %d: %v", method, path, i, err)
	}
	return a
}

// build makes the image in a folder of its own, with nothing in it but what the
// prebuilt stage needs.
func (c *compose) build(t *testing.T) {
	t.Helper()
	var builder proc.Builder
	defer builder.Remove()
	dir := t.TempDir()
	copyFile(t, builder.Binary(t, true), filepath.Join(dir, "bin", "quorate"), 0o755)
	for _, name := range []string{"Dockerfile", ".dockerignore", "deploy/docker/data/.keep"} {
		copyFile(t, filepath.Join(c.root, name), filepath.Join(dir, name), 0o644)
	}
	if _, err := command(t.Context(), dir, nil, "docker", "build", "--target", "prebuilt", "-t", c.image, "."); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, data, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a command of compose on this project.
func (c *compose) run(t *testing.T, args ...string) {
	t.Helper()
	if err := c.try(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
}

func (c *compose) try(ctx context.Context, args ...string) error {
	all := append(append([]string{}, c.command...), "-p", c.name, "-f", filepath.Join(c.root, "docker-compose.yml"))
	_, err := command(ctx, c.root, c.env, append(all, args...)...)
	return err
}

// docker runs a command of docker.
func (c *compose) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t.Context(), "", nil, append([]string{"docker"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// down removes containers, volumes, network and image, whatever has happened.
func (c *compose) down(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), commandMax)
	defer cancel()
	for i := 1; i <= nodes; i++ {
		if t.Failed() {
			out, err := exec.CommandContext(ctx, "docker", "logs", "--tail", "15", c.container(i)).CombinedOutput()
			t.Logf("%s: %v\n%s", c.container(i), err, out)
		}
		// A paused container cannot be stopped.
		_, _ = command(ctx, "", nil, "docker", "unpause", c.container(i))
	}
	if err := c.try(ctx, "down", "-v", "-t", "5", "--remove-orphans"); err != nil {
		t.Errorf("clean up: %v", err)
	}
	_, err := command(ctx, "", nil, "docker", "rmi", c.image)
	if err != nil && !t.Failed() {
		t.Errorf("clean up: %v", err)
	}
}

func (c *compose) container(i int) string { return c.name + "-node" + strconv.Itoa(i) }

func (c *compose) endpoint(i int) string { return fmt.Sprintf("http://127.0.0.1:%d", c.port+i-1) }

func (c *compose) endpoints() []string {
	urls := make([]string, nodes)
	for i := range urls {
		urls[i] = c.endpoint(i + 1)
	}
	return urls
}

// inspected is what the tests look at in `docker inspect`.
type inspected struct {
	Config struct {
		User string
		Env  []string
	}
	HostConfig struct {
		ReadonlyRootfs bool
		Privileged     bool
		CapDrop        []string
		SecurityOpt    []string
	}
	State struct {
		Status string
		Health struct{ Status string }
	}
	Mounts          []mount
	NetworkSettings struct {
		Ports map[string][]struct{ HostIP string }
	}
}

// mount is what a container sees of the world outside.
type mount struct {
	Type, Destination string
	RW                bool
}

func (c *compose) inspect(ctx context.Context, i int) (inspected, error) {
	out, err := command(ctx, "", nil, "docker", "inspect", c.container(i))
	if err != nil {
		return inspected{}, err
	}
	var all []inspected
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		return inspected{}, errors.Join(err, fmt.Errorf("%d containers are called %s", len(all), c.container(i)))
	}
	return all[0], nil
}

// waitHealthy waits until the engine calls all containers healthy.
func (c *compose) waitHealthy(t *testing.T) {
	t.Helper()
	proc.Eventually(t, healthyMax, "all containers healthy", func(ctx context.Context) error {
		for i := 1; i <= nodes; i++ {
			got, err := c.inspect(ctx, i)
			if err != nil {
				return err
			}
			if got.State.Status != "running" || got.State.Health.Status != "healthy" {
				return fmt.Errorf("%s is %s, %s", c.container(i), got.State.Status, got.State.Health.Status)
			}
		}
		return nil
	})
}
