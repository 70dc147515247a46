package server

import (
	"strings"
	"testing"
	"time"

	"github.com/quorate-db/quorate/internal/pki"
	"github.com/quorate-db/quorate/kv"
)

// TestEndingProblems: nothing while there is time, a warning before the end, and after it
// a critical problem if it is what the node presents, for every use in its own words.
func TestEndingProblems(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	for use, ended := range map[pki.Use]kv.Severity{
		pki.UsePeerCert: kv.SeverityCritical, pki.UsePeerCA: kv.SeverityWarning,
		pki.UseTLSCert: kv.SeverityCritical, pki.UseTLSCA: kv.SeverityWarning,
	} {
		for _, c := range []struct {
			left     time.Duration
			severity kv.Severity // "" = no problem
			says     string
		}{{30 * day, "", ""}, {7 * day, kv.SeverityWarning, " (CN=x) ends at "}, {-day, ended, " (CN=x) ended at "}} {
			term := pki.Term{Use: use, Subject: "CN=x", Begin: now.Add(c.left - 90*day), End: now.Add(c.left)}
			got := endingProblems(1, "a", []pki.Term{term}, now)
			if c.severity == "" {
				if len(got) != 0 {
					t.Errorf("%s: %+v with %s left", use, got, c.left)
				}
				continue
			}
			if len(got) != 1 || got[0].Severity != c.severity || got[0].Node != 1 || !strings.Contains(got[0].Summary, c.says) || !strings.Contains(got[0].Help, "--"+string(use)+" ") {
				t.Errorf("%s with %s left: %+v", use, c.left, got)
			}
		}
	}
}
