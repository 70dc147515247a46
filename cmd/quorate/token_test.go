package main

import (
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/httpd"
	"github.com/quorate-db/quorate/internal/audit"
	"github.com/quorate-db/quorate/internal/bench/memdata"
)

// guardedNode is a node that asks for tokens, and an environment that knows nothing
// but where it is.
func guardedNode(t *testing.T) (env map[string]string, root string) {
	t.Helper()
	tokens, root := memdata.NewTokens()
	cluster := &memdata.Cluster{}
	s := httptest.NewServer(httpd.New(httpd.Options{Data: memdata.New(0xa1, 7), Cluster: cluster, Admin: memdata.NewAdmin(cluster), Health: cluster,
		Access: tokens, Tokens: tokens, Self: 0xa1, Now: func() time.Time { return time.UnixMilli(1_700_000_000_000) }}).Handler())
	t.Cleanup(s.Close)
	return map[string]string{"QUORATE_ENDPOINT": s.URL, "QUORATE_CONFIG_DIR": filepath.Join(t.TempDir(), "config")}, root
}

func with(env map[string]string, name, value string) map[string]string {
	env = maps.Clone(env)
	env[name] = value
	return env
}

// wants runs a command line and looks for parts of what it printed.
func wants(t *testing.T, env map[string]string, stdin, line string, parts ...string) string {
	t.Helper()
	got := transcript(line, stdin, env)
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: want %q in\n%s", line, part, got)
		}
	}
	return got
}

func TestTokensOnTheCommandLine(t *testing.T) {
	env, root := guardedNode(t)
	wants(t, env, "", "put app/k v", "exit 1", "unauthenticated")
	asRoot := with(env, "QUORATE_TOKEN", root)
	got := wants(t, asRoot, "", "token create --role writer --prefix app/ --grant 'deny reader app/x' --name app --ttl 1h --rate 50", "exit 0", "only time")
	at := strings.Index(got, "qrt_")
	made := got[at : at+64]
	asApp := with(env, "QUORATE_TOKEN", made)
	wants(t, asApp, "", "put app/k v", "exit 0")
	wants(t, asApp, "", "put app/x v", "exit 1", "forbidden")
	wants(t, asApp, "", "token list", "exit 1", "forbidden")
	list := wants(t, asRoot, "", "token list", "exit 0", made[4:20], "writer app/, deny reader app/x", "50/s", "2023-11-14T23:13:20Z", "root")
	if strings.Contains(list, "qrt_") {
		t.Error(list)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(root+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, asApp, "", "token create --role reader --deny -o json --token-file "+file, "exit 0", `"token": "qrt_`, `"deny": true`)
	wants(t, asApp, "", "nodes --token-file "+file, "exit 0")
	wants(t, env, "", "nodes --token-file "+file+".none", "exit 1", "no such file")
	if got := wants(t, asRoot, "", "token revoke "+made, "exit 2"); strings.Contains(got, made) {
		t.Error(got)
	}
	wants(t, asRoot, "", "token revoke "+made[4:20], "exit 0", "(app) is revoked")
	wants(t, asApp, "", "get app/k", "exit 1", "unauthenticated")
	wants(t, asRoot, "", "token revoke 0000000000000000", "exit 3")
	for _, bad := range []string{"", "--role root", "--prefix a", "--role admin --prefix a", "--grant 'reader a' --deny", "--grant root"} {
		wants(t, asRoot, "", "token create "+bad, "exit 2")
	}
}

// TestTokenOut: a token goes to a file that is its owner's alone, and another one is not
// made where there is one. Health asks without a token where it has none.
func TestTokenOut(t *testing.T) {
	env, root := guardedNode(t)
	asRoot, file := with(env, "QUORATE_TOKEN", root), filepath.Join(t.TempDir(), "token")
	create := "token create --role reader --name p --out " + file
	if got := wants(t, asRoot, "", create, "exit 0", "holds token"); strings.Contains(got, "qrt_") {
		t.Error(got)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	wants(t, env, "", "token list --token-file "+file, "exit 1", "forbidden") // it counts, and may not
	wants(t, asRoot, "", create, "exit 1", "exists already")
	wants(t, asRoot, "", create+" --keep", "exit 0", "there already")
	if list := wants(t, asRoot, "", "token list -o plain", "exit 0"); strings.Count(list, "\tp\t") != 1 {
		t.Errorf("want one token called p:\n%s", list)
	}
	wants(t, asRoot, "", "token create --role reader --keep", "exit 2", "--keep goes with --out")
	wants(t, asRoot, "", "token create --role reader --out "+file+"/x", "exit 1")
	wants(t, env, "", "health --token-file "+file+".none", "exit 0")
}

func TestLogin(t *testing.T) {
	env, root := guardedNode(t)
	wants(t, env, "", "login", "exit 2", "no token is given")
	wants(t, env, "qrt_wrong\n", "login", "exit 1", "unauthenticated")
	wants(t, env, "", "nodes", "exit 1")
	wants(t, env, root+"\n", "login", "exit 0", "is kept in "+env["QUORATE_CONFIG_DIR"])
	wants(t, env, "", "nodes", "exit 0")
	wants(t, with(env, "QUORATE_TOKEN", "qrt_wrong"), "", "nodes", "exit 1") // comes first
	path := storedPath(func(name string) (string, bool) { v, ok := env[name]; return v, ok }, env["QUORATE_ENDPOINT"])
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	wants(t, env, "", "nodes", "exit 1", "others may read the token")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	secure := strings.Replace(env["QUORATE_ENDPOINT"], "http://", "https://", 1)
	if text, err := readStored(func(name string) (string, bool) { v, ok := env[name]; return v, ok }, secure); text != "" || err != nil {
		t.Errorf("a token of http for https: %q, %v", text, err)
	}
	wants(t, env, "", "login --remove", "exit 0")
	wants(t, env, "", "nodes", "exit 1", "unauthenticated")
	wants(t, map[string]string{"QUORATE_ENDPOINT": env["QUORATE_ENDPOINT"]}, root, "login", "exit 1", "no place to keep a token")
}

func TestAuditVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := audit.Open(audit.Options{Path: path, Now: func() time.Time { return time.Unix(1_700_000_000, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.Record(audit.Entry{Node: "n", Method: "POST", Route: "/v1/tokens", From: "a", Status: 201}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := wants(t, nil, "", "audit verify "+path, "exit 0", "3 lines, numbers 1 to 3", "head: ")
	head := strings.TrimSpace(got[strings.Index(got, "head: ")+6:])
	wants(t, nil, "", "audit verify "+path+" --head "+head, "exit 0")
	wants(t, nil, "", "audit verify "+path+" --head 00", "exit 1", "lines are missing")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "201", "403", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, nil, "", "audit verify "+path, "exit 1", "line 1: its hash is wrong")
	wants(t, nil, "", "audit verify", "exit 2")
	wants(t, nil, "", "audit verify "+path+".none", "exit 1")
}
