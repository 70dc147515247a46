package server

import (
	"strings"
	"testing"
)

func validConfig() Config {
	return Config{
		DataDir: "d",
		HTTP:    Address{Listen: "127.0.0.1:7001"},
		Peer:    Address{Listen: "127.0.0.1:7101"},
	}.Defaulted()
}

func TestConfigDefaultsAreValid(t *testing.T) {
	if err := validConfig().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigRefuses(t *testing.T) {
	cases := map[string]func(*Config){
		"--data-dir":           func(c *Config) { c.DataDir = "" },
		"--http-listen":        func(c *Config) { c.HTTP.Listen = "7001" },
		"--insecure":           func(c *Config) { c.HTTP.Listen = ":7001" },
		"--peer-listen":        func(c *Config) { c.Peer.Listen = "0.0.0.0:7101" },
		"--peer-advertise":     func(c *Config) { c.Security.Insecure, c.Peer.Advertise = true, "0.0.0.0:7101" },
		"--http-advertise":     func(c *Config) { c.HTTP.Advertise = ":7001" },
		"--join":               func(c *Config) { c.Join = []string{"nohost"} },
		"--expect":             func(c *Config) { c.Expect = 3 },
		"--replication-factor": func(c *Config) { c.Initial.ReplicationFactor = 8 },
		"--shards":             func(c *Config) { c.Initial.Count = -1 },
		"--split-points":       func(c *Config) { c.Initial.SplitPoints = []string{"b", "a"} },
		"--log":                func(c *Config) { c.Log = "paper" },
	}
	for want, spoil := range cases {
		c := validConfig()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}

func TestConfigReportsEverythingAtOnce(t *testing.T) {
	c := validConfig()
	c.DataDir, c.Log = "", "paper"
	err := c.Validate()
	if err == nil || !strings.Contains(err.Error(), "--data-dir") || !strings.Contains(err.Error(), "--log") {
		t.Fatalf("error %v, want both faults", err)
	}
}
