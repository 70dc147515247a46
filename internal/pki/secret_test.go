package pki

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretText(t *testing.T) {
	for range 100 {
		s := NewSecret()
		for _, text := range []string{s.Reveal(), strings.ToUpper(s.Reveal()), "\t" + s.Reveal() + "\r\n"} {
			got, err := ParseSecret(text)
			if err != nil || got != s {
				t.Fatalf("%v, %v", got == s, err)
			}
		}
	}
}

func TestSecretsThatAreNone(t *testing.T) {
	good := NewSecret().Reveal()
	body := strings.TrimPrefix(good, secretPrefix)
	swapped := "a"
	if body[10] == 'a' {
		swapped = "b"
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", "quorate secret new"},
		"a password":      {"correct horse battery staple", "begins with"},
		"a later version": {"qsec2_" + body, "kind that this release does not know"},
		"cut":             {good[:len(good)-1], "copied whole"},
		"longer":          {good + "a", "copied whole"},
		"a digit":         {secretPrefix + "0" + body[1:], "character"},
		"line breaks":     {secretPrefix + "\r\r\n\r\n\r\n\r" + body[8:], "character"},
		"a typo":          {secretPrefix + body[:10] + swapped + body[11:], "misspelt"},
		"zeros":           {zeroSecret(), "all zeros"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSecret(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if len(c.text) > 20 && strings.Contains(err.Error(), c.text[10:20]) {
				t.Fatalf("the error shows the secret: %v", err)
			}
		})
	}
}

func zeroSecret() string { return Secret{set: true}.Reveal() }

// Invariant 2: nothing that prints shows a secret.
func TestSecretsAreNotPrinted(t *testing.T) {
	s := NewSecret()
	var logs bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&logs, nil), slog.NewJSONHandler(&logs, nil)} {
		slog.New(h).Info("x", "secret", s, "in", struct{ S Secret }{s}, "list", []Secret{s})
	}
	encoded, err := json.Marshal(map[string]any{"s": s, "list": []Secret{s}})
	if err != nil {
		t.Fatal(err)
	}
	all := logs.String() + string(encoded) + fmt.Sprintf("%v %+v %#v %x %q %s %d", s, s, s, s, s, s, s) + fmt.Sprint([]Secret{s}, &s, struct{ S Secret }{s})
	raw := fmt.Sprintf("%x", s.raw[:8])
	decimal := fmt.Sprint(s.raw[:4])
	for _, shown := range []string{s.Reveal()[:16], raw, strings.Trim(decimal, "[]")} {
		if strings.Contains(all, shown) {
			t.Fatalf("%q is in %s", shown, all)
		}
	}
	if !strings.Contains(all, s.ID()) {
		t.Fatalf("the id is not in %s", all)
	}
}

func TestParseSecrets(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	got, err := ParseSecrets("# the new one\n" + b.Reveal() + "\n\n  " + a.Reveal() + "  ")
	if err != nil || len(got) != 2 || got[0] != b || got[1] != a {
		t.Fatalf("%v, %v", got, err)
	}
	many := ""
	for range SecretsMax + 1 {
		many += NewSecret().Reveal() + "\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing": {"# none\n", "no cluster secret"},
		"twice":   {a.Reveal() + "\n" + a.Reveal(), "line 2: cluster secret " + a.ID() + " is there twice"},
		"broken":  {a.Reveal() + "\n\nx", "line 3"},
		"many":    {many, "at most 4"},
	} {
		if _, err := ParseSecrets(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
