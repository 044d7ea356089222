package functionshost

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// StartError means that the handler's program cannot be started.
type StartError struct {
	Executable string // as host.json or the caller names it, with variables expanded
	Err        error  // errors.Is(Err, fs.ErrNotExist) if the program does not exist
}

func (e *StartError) Error() string {
	return fmt.Sprintf("cannot start the handler %q: %v", e.Executable, e.Err)
}

func (e *StartError) Unwrap() error { return e.Err }

var variable = regexp.MustCompile(`%([^%]+)%`)

// expand replaces %NAME% with the value of the variable, which is empty if it is not set.
func expand(s string, environ map[string]string) string {
	return variable.ReplaceAllStringFunc(s, func(match string) string { return environ[strings.Trim(match, "%")] })
}

// command is how to start the handler.
type command struct {
	path      string
	arguments []string
	directory string
	environ   []string
}

// resolve finds the program as the host does: relative to the worker directory if the file exists there, otherwise on
// PATH. The working directory does not affect the search.
func (c *config) resolve(environ map[string]string) (command, error) {
	name := filepath.FromSlash(expand(c.executable, environ))
	fail := func(err error) (command, error) { return command{}, &StartError{Executable: name, Err: err} }
	path := name
	if !filepath.IsAbs(path) {
		base := c.root
		if c.workerDirectory != "" {
			base = rooted(c.root, expand(c.workerDirectory, environ))
		}
		path = filepath.Join(base, name)
		_, err := os.Stat(path)
		if err == nil {
			// found next to host.json
		} else if strings.ContainsRune(name, filepath.Separator) {
			return fail(err)
		} else if path, err = exec.LookPath(name); err != nil {
			return fail(fmt.Errorf("it is neither in %s nor on PATH: %w", base, os.ErrNotExist))
		}
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fail(err)
	case info.IsDir():
		return fail(fmt.Errorf("%s is a folder", path))
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		return fail(fmt.Errorf("%s is not executable: chmod +x it", path))
	}
	directory := c.root
	if c.workingDirectory != "" {
		directory = rooted(c.root, expand(c.workingDirectory, environ))
	}
	// The host joins the arguments with spaces and does not quote them, so a value with a space becomes two arguments.
	var arguments []string
	for _, a := range c.arguments {
		arguments = append(arguments, strings.Fields(expand(a, environ))...)
	}
	return command{path: path, arguments: arguments, directory: directory}, nil
}

func rooted(root, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(root, path)
}

// process is one run of the handler.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed after code is set and all output was passed on
	code   int           // exit code; -1 if a signal ended the process

	mu     sync.Mutex
	errors []string // the last three error lines, which the host includes in its crash report
}

// outputGrace is how long output is read after the end of the handler if a child process keeps the pipe open.
const outputGrace = time.Second

// start runs the program in its own process group. Ctrl-C in a terminal then reaches only this process, because the
// real host's handler never sees a signal; and killing the group leaves no child behind.
func start(c command, stderrIsError bool, console func(ConsoleLine)) (*process, error) {
	p := &process{cmd: exec.Command(c.path, c.arguments...), exited: make(chan struct{})}
	p.cmd.Dir = c.directory
	p.cmd.Env = c.environ
	p.cmd.WaitDelay = outputGrace
	ownGroup(p.cmd)
	stdout := &lineWriter{line: func(s string) { console(classify("stdout", s, stderrIsError)) }}
	stderr := &lineWriter{line: func(s string) {
		line := classify("stderr", s, stderrIsError)
		if line.Level == slog.LevelError {
			p.remember(line.Text)
		}
		console(line)
	}}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if err := p.cmd.Start(); err != nil {
		return nil, &StartError{Executable: c.path, Err: err}
	}
	go func() {
		err := p.cmd.Wait()
		stdout.flush()
		stderr.flush()
		p.code = p.cmd.ProcessState.ExitCode()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
			p.remember(err.Error())
		}
		close(p.exited)
	}()
	return p, nil
}

func (p *process) remember(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errors = append(p.errors, line)
	if len(p.errors) > 3 {
		p.errors = p.errors[1:]
	}
}

// kill ends the handler and its children with SIGKILL, and waits until the handler has ended.
func (p *process) kill() {
	select {
	case <-p.exited:
		return
	default:
	}
	killGroup(p.cmd)
	<-p.exited
}

// crash is an end of the handler that counts as a strike.
type crash struct {
	state string // for example "exit status 1"
	wrote string // the last error lines, "" if none
}

func (c *crash) Error() string {
	if c.wrote == "" {
		return "the handler ended: " + c.state
	}
	return "the handler ended: " + c.state + "; it wrote:\n" + c.wrote
}

// crash describes the end of the process.
func (p *process) crash() *crash {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &crash{state: p.cmd.ProcessState.String(), wrote: strings.Join(p.errors, "\n")}
}
