package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quorate-db/quorate/internal/pki"
)

// runWith runs the command line with an environment of its own.
func runWith(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk strings.Builder
	code = run(t.Context(), args, streams{strings.NewReader(""), &out, &talk}, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})
	return code, out.String(), talk.String()
}

func TestSecretCommand(t *testing.T) {
	code, printed, _ := runWith(t, nil, "secret", "new")
	s, err := pki.ParseSecret(printed)
	if code != exitOK || err != nil {
		t.Fatalf("%d, %v", code, err)
	}
	path := filepath.Join(t.TempDir(), "s")
	code, printed, talk := runWith(t, nil, "secret", "new", "--out", path)
	if code != exitOK || printed != "" {
		t.Fatalf("%d, %q", code, printed)
	}
	secrets, err := pki.ReadSecrets(path)
	if err != nil || secrets[0] == s || strings.Contains(talk, secrets[0].Reveal()) || !strings.Contains(talk, secrets[0].ID()) {
		t.Fatalf("%v, %s", err, talk)
	}
	if code, _, talk := runWith(t, nil, "secret", "new", "--out", path); code != exitFailure || !strings.Contains(talk, "exists already") {
		t.Errorf("again: %d, %s", code, talk)
	}
	if code, _, _ := runWith(t, nil, "secret", "new", "--out", path, "--keep"); code != exitOK {
		t.Errorf("again, with --keep: %d", code)
	}
	if again, err := pki.ReadSecrets(path); err != nil || again[0] != secrets[0] {
		t.Errorf("the file has changed: %v", err)
	}
	if code, printed, _ := runWith(t, nil, "secret", "id", path); code != exitOK || strings.TrimSpace(printed) != secrets[0].ID() {
		t.Errorf("id: %d, %q", code, printed)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, _ := runWith(t, nil, "secret", "new", "--out", path, "--keep"); code != exitFailure {
		t.Errorf("kept a file without a secret: %d", code)
	}
}

// TestServeRefusesBadSecrets: with the reason, and never by starting without.
func TestServeRefusesBadSecrets(t *testing.T) {
	dir := t.TempDir()
	good, open, broken := filepath.Join(dir, "good"), filepath.Join(dir, "open"), filepath.Join(dir, "broken")
	text := pki.NewSecret().Reveal()
	for path, content := range map[string]string{good: text, open: text, broken: text[:30]} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		file string
		want string
	}{
		"for others to read": {nil, open, "chmod 600"},
		"misspelt":           {nil, broken, "copied whole"},
		"missing":            {nil, filepath.Join(dir, "none"), "no such file"},
		"two sources":        {map[string]string{secretEnv: text}, good, "give one of them"},
		"bad environment":    {map[string]string{secretEnv: text[:30]}, "", secretEnv},
	} {
		args := []string{"serve", "--data-dir", filepath.Join(dir, "data"), "--http-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"}
		if c.file != "" {
			args = append(args, "--cluster-secret-file", c.file)
		}
		code, _, talk := runWith(t, c.env, args...)
		if code == exitOK || !strings.Contains(talk, c.want) {
			t.Errorf("%s: %d, %s", name, code, talk)
		}
		if strings.Contains(talk, text[8:24]) {
			t.Errorf("%s: shows the secret: %s", name, talk)
		}
	}
}

// TestDevMakesASecret: once, for its nodes alone, unless it is told not to or the
// nodes have one already.
func TestDevMakesASecret(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, devSecretFile)
	d := &devCluster{dir: dir}
	var first pki.Secret
	for i := range 2 {
		args, err := d.secretArgs()
		if err != nil || strings.Join(args, " ") != "--cluster-secret-file "+path {
			t.Fatalf("%v, %v", args, err)
		}
		secrets, err := pki.ReadSecrets(path)
		if err != nil || i > 0 && secrets[0] != first {
			t.Fatalf("start %d: %v, %v", i, secrets, err)
		}
		first = secrets[0]
	}
	for name, o := range map[string]devOptions{"insecure": {insecure: true}, "in the environment": {ownSecret: true}} {
		other := &devCluster{o: o, dir: t.TempDir()}
		if args, err := other.secretArgs(); len(args) != 0 || err != nil {
			t.Errorf("%s: %v, %v", name, args, err)
		}
		if files, _ := os.ReadDir(other.dir); len(files) != 0 {
			t.Errorf("%s: made %v", name, files)
		}
	}
}

// TestDevTLS: the nodes serve HTTPS, dev trusts them and says how others do; not without
// a secret.
func TestDevTLS(t *testing.T) {
	own := pki.NewSecret()
	ownAuthority, err := authorities(func(string) (string, bool) { return own.Reveal(), true }, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    devOptions
		told string // "" = nothing
	}{
		"plain":                 {devOptions{}, ""},
		"tls":                   {devOptions{tls: true}, "quorate cert --cluster-secret-file "},
		"tls, secret in values": {devOptions{tls: true, ownSecret: true, ownAuthority: ownAuthority}, "quorate cert > ca.pem"},
	} {
		var talk strings.Builder
		c.o.nodes, c.o.port, c.o.shards = 2, 20001, 1
		d, err := newDevCluster(c.o, t.TempDir(), "/nonexistent", &talk, &talk)
		if err != nil {
			t.Fatal(err)
		}
		d.tellTrust()
		scheme := "http://"
		if c.told != "" {
			scheme = "https://"
		}
		secure := slices.Contains(d.cluster.Args(2), "--tls")
		if secure != (c.told != "") || (d.trust != nil) != secure || !strings.Contains(talk.String(), c.told) || (talk.String() == "") == secure {
			t.Errorf("%s: --tls %t, trust %t, says %q", name, secure, d.trust != nil, talk.String())
		}
		if row, all := d.rows(1)[0], d.cluster.Endpoints(); row.HTTP != all[0] || !strings.HasPrefix(all[1], scheme) {
			t.Errorf("%s: %s, %v", name, row.HTTP, all)
		}
	}
	if code, _, talk := runWith(t, nil, "dev", "--tls", "--insecure"); code != exitUsage || !strings.Contains(talk, "--tls: ") {
		t.Errorf("%d, %s", code, talk)
	}
}

func TestSecretsFromTheEnvironment(t *testing.T) {
	a, b := pki.NewSecret(), pki.NewSecret()
	env := func(string) (string, bool) { return a.Reveal() + ", " + b.Reveal(), true }
	if got, err := secretsFromEnv(env); err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCertCommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := pki.NewSecret()
	if err := pki.WriteSecret(path, s); err != nil {
		t.Fatal(err)
	}
	code, byFile, _ := runWith(t, nil, "cert", "--cluster-secret-file", path)
	_, byValue, _ := runWith(t, map[string]string{secretEnv: s.Reveal()}, "cert")
	if code != exitOK || byFile != byValue || !strings.HasPrefix(byFile, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("%d, %q, %q", code, byFile, byValue)
	}
	if code, _, _ := runWith(t, nil, "cert"); code != exitUsage {
		t.Errorf("without a secret: %d", code)
	}
}
