package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// A running `quorate dev` listens on a socket that only its user can open, named
// after the port of its first node. `dev add-node` talks HTTP there: the new
// node is to be the child of the cluster's process, which stops it with the others.

// devControl is the socket and who answers on it; without a listener, nobody.
type devControl struct {
	path   string
	l      net.Listener
	server *http.Server
	done   chan struct{}
	served bool
}

// devSocket gives the path of the socket and makes sure that its folder is the user's
// alone. Whoever listens makes the folder.
func devSocket(port int, listens bool) (string, error) {
	dir := filepath.Join(os.TempDir(), "quorate-dev-"+strconv.Itoa(os.Getuid()))
	if listens {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(stat.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s is not a folder that is yours alone: remove it", dir)
	}
	return filepath.Join(dir, strconv.Itoa(port)+".sock"), nil
}

// listen takes the socket; nobody is answered before serve. Requests end with life.
func (d *devCluster) listen(life context.Context) (*devControl, error) {
	path, err := devSocket(d.o.port, true)
	if err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		return nil, errors.Join(fmt.Errorf("another 'quorate dev' runs with --port %d", d.o.port), c.Close())
	}
	// What is left of one that was killed is in the way.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the socket for 'quorate dev add-node': %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /nodes", func(w http.ResponseWriter, r *http.Request) { d.serveAdd(life, w, r) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	return &devControl{path: path, l: l, server: server, done: make(chan struct{})}, nil
}

func (c *devControl) serve() {
	if c.l == nil {
		return
	}
	c.served = true
	go func() {
		_ = c.server.Serve(c.l) // ends with close
		close(c.done)
	}()
}

// close returns when nobody is answered any more.
func (c *devControl) close() {
	if c.l == nil {
		return
	}
	defer os.Remove(filepath.Dir(c.path)) // unless there are others
	if !c.served {
		_ = c.l.Close() // removes the socket
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), devStopTimeout)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		_ = c.server.Close()
	}
	<-c.done
}

// devAnswer is what is answered on the socket.
type devAnswer struct {
	Node  *devRow `json:"node,omitempty"`
	Error string  `json:"error,omitempty"`
}

func (d *devCluster) serveAdd(life context.Context, w http.ResponseWriter, r *http.Request) {
	// Who asked may go away; the node is added all the same.
	ctx, cancel := context.WithTimeout(life, devStartTimeout)
	defer cancel()
	row, err := d.add(ctx, life, r.URL.Query().Get("zone"))
	answer := devAnswer{Node: &row}
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		answer = devAnswer{Error: err.Error()}
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = json.NewEncoder(w).Encode(answer) // who is gone is not told
}

func devAddNodeCommand(env lookupEnv) *cobra.Command {
	var port int
	var zone string
	output := formatTable
	cmd := &cobra.Command{
		Use:   "add-node",
		Short: "Add a node to the running cluster",
		Long: `Add a node to the cluster that 'quorate dev' runs, and wait until it serves. It belongs
to that process, which stops it with the others.`,
		Example: "  quorate dev add-node\n  quorate dev add-node --zone c",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			row, err := askForNode(cmd.Context(), port, zone)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return printJSON(cmd.OutOrStdout(), row)
			}
			t := table{heading: []string{"NODE", "PID", "ZONE", "HTTP", "LOG"}}
			t.add(text(row.Name), number(row.PID), text(dash(shown(row.Zone))), text(row.HTTP), text(row.Log))
			return t.print(cmd.OutOrStdout(), output, colours(cmd.OutOrStdout(), env))
		},
	}
	f := cmd.Flags()
	f.IntVar(&port, "port", devPort, "the --port of that 'quorate dev'")
	f.StringVar(&zone, "zone", "", "the node's zone (default: the next of --zones)")
	f.VarP(&output, "output", "o", "how to print")
	return cmd
}

// askForNode asks the process of a cluster for one more node.
func askForNode(ctx context.Context, port int, zone string) (devRow, error) {
	unavailable := func(err error) error {
		return exitError{exitUnavailable, fmt.Sprintf("no 'quorate dev' with --port %d answers: %v", port, err)}
	}
	path, err := devSocket(port, false)
	if err != nil {
		return devRow{}, unavailable(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, devStartTimeout+5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dev/nodes", http.NoBody)
	if err != nil {
		return devRow{}, err
	}
	q := req.URL.Query()
	q.Set("zone", zone)
	req.URL.RawQuery = q.Encode()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return devRow{}, unavailable(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return devRow{}, err
	}
	var answer devAnswer
	if err := json.Unmarshal(body, &answer); err != nil {
		return devRow{}, fmt.Errorf("'quorate dev' answered %d %.100q", resp.StatusCode, body)
	}
	if answer.Node == nil {
		return devRow{}, errors.New(answer.Error)
	}
	return *answer.Node, nil
}
