package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
)

// A child is a process of this program, or of its build before.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	to  *json.Encoder
	out *json.Decoder
}

func start(program, arg string) (*child, error) {
	c := &child{cmd: exec.Command(program, arg)}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.in, c.to, c.out = in, json.NewEncoder(in), json.NewDecoder(out)
	return c, c.cmd.Start()
}

func (c *child) stop() {
	c.in.Close()
	c.cmd.Wait()
}

// turn has a sender do so many uploads.
func (c *child) turn(n int) (t turn, err error) {
	if err = c.to.Encode(n); err == nil {
		err = c.out.Decode(&t)
	}
	return t, err
}

// turns are those of each kind of sender, in one case.
type turns map[string][]turn

// measure returns the turns of each case.
func (p plan) measure(progress io.Writer) ([]turns, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	server, err := start(self, serveArg)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	var to addresses
	if err := server.out.Decode(&to); err != nil {
		return nil, err
	}
	var all []turns
	for _, u := range p.cases {
		fmt.Fprintln(progress, u.name())
		t, err := p.take(u, to, self)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.name(), err)
		}
		all = append(all, t)
	}
	return all, nil
}

// kinds are the senders of a case.
func (p plan) kinds(u uploads) []string {
	kinds := []string{kindBase, kindAuth}
	if p.before != "" {
		kinds = append(kinds, kindBefore)
	}
	if u.AtOnce > 1 {
		kinds = append(kinds, kindOAuth2)
	}
	return kinds
}

// take measures one case. In each turn another sender comes first.
func (p plan) take(u uploads, to addresses, self string) (turns, error) {
	kinds := p.kinds(u)
	senders := make(map[string]*child)
	for _, kind := range kinds {
		program := self
		if kind == kindBefore {
			program = p.before
		}
		c, err := start(program, sendArg)
		if err != nil {
			return nil, err
		}
		defer c.stop()
		senders[kind] = c
		if err := c.to.Encode(task{u, to, kind}); err != nil {
			return nil, err
		}
		if _, err := c.turn(u.batch(p.quick)); err != nil { // warms up
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
	}
	all := make(turns)
	for n := range p.turns {
		for i := range kinds {
			kind := kinds[(n+i)%len(kinds)]
			t, err := senders[kind].turn(u.batch(p.quick))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			all[kind] = append(all[kind], t)
		}
	}
	return all, nil
}
