package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// nobody runs the server if this process is root's, which PostgreSQL refuses to be.
const nobody = 65534

// startDatabase starts a PostgreSQL server with a cluster of its own, on a socket, and fills it. stop ends it.
func startDatabase(ctx context.Context) (address string, stop func(), err error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is well formed
	if name, lookErr := exec.LookPath("initdb"); lookErr == nil {
		if name, lookErr = filepath.EvalSymlinks(name); lookErr == nil {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return "", nil, errNoDatabase
	}
	folder, err := os.MkdirTemp("", "usher-bench-pg-") // one that nobody can enter
	if err != nil {
		return "", nil, err
	}
	running := (*exec.Cmd)(nil)
	stop = func() {
		if running != nil {
			_ = running.Process.Signal(syscall.SIGQUIT) // ends it at once, with its children
			_ = running.Wait()
		}
		_ = os.RemoveAll(folder)
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	command := func(name string, arguments ...string) *exec.Cmd {
		command := exec.CommandContext(ctx, filepath.Join(filepath.Dir(found[len(found)-1]), name), arguments...)
		command.Dir, command.Env = folder, append(os.Environ(), "LC_ALL=C")
		if os.Geteuid() == 0 {
			command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		return command
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(folder, nobody, nobody); err != nil {
			return "", nil, err
		}
	}
	if output, err := command("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("initdb: %w\n%s", err, output)
	}
	const port = 5432 // of the socket's name
	running = command("postgres", "-D", "data", "-c", fmt.Sprint("port=", port), "-c", "listen_addresses=", "-c", "unix_socket_directories="+folder)
	if err := running.Start(); err != nil {
		running = nil
		return "", nil, err
	}
	address = socketAddress(folder, port)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		connection, err := pgx.Connect(ctx, address)
		if err == nil {
			defer connection.Close(ctx)
			return address, stop, fillDatabase(ctx, connection)
		}
		if time.Now().After(deadline) {
			return "", nil, err
		}
	}
}
