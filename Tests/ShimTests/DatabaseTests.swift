// SPDX-License-Identifier: Apache-2.0

import Foundation
import ProcFS
import TestSupport
import Testing

private let nobody = 65534

/// Database servers with a preloaded jemalloc. They do what databases do, in directories of their
/// own and on sockets; and they prepare statements, thousands of which end in no order: of these,
/// and not of rows, is the memory that malloc gives to a server of its kind.
extension ShimTests {
    private static let statementCount = 1500

    /// SQL that prepares statements and drops them in an order of its own.
    private static func statements(
        prepare: (Int) -> String, drop: (Int) -> String
    ) -> String {
        let numbers = 0..<statementCount
        return numbers.map { prepare($0) + ";\n" }.joined()
            + numbers.map { drop($0 * 7 % statementCount) + ";\n" }.joined()
    }

    /// A directory that nobody may use, and the words before a command that make it nobody's.
    private static func workplace() throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory(mode: 0o755)
        if isRoot {
            try FileManager.default.setAttributes(
                [.ownerAccountID: nobody, .groupOwnerAccountID: nobody],
                ofItemAtPath: directory.url.path())
        }
        return directory
    }

    private static let asNobody =
        isRoot
        ? [
            PackageFiles.installed("setpriv") ?? "", "--reuid=\(nobody)", "--regid=\(nobody)",
            "--clear-groups",
        ] : []

    /// Runs `command` to its end and returns what it printed.
    private static func output(
        of command: [String], limit: Duration = .seconds(30)
    ) async throws -> String {
        let outcome = try await Victim.run(command, limit: limit)
        guard outcome.status == 0 else {
            throw ShimBuild.Failure(description: "\(command[0]): \(outcome)")
        }
        return outcome.output
    }

    // MARK: MariaDB

    static let missingForMariaDB = ["mariadbd", "mariadb-install-db", "mariadb", "setpriv"]
        .filter { PackageFiles.installed($0) == nil }

    @Test(
        "MariaDB gives its tables back, whatever is preloaded first",
        .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"),
        .enabled(if: missingForMariaDB.isEmpty, "needs \(missingForMariaDB)"))
    static func mariaDB() async throws {
        let selection = "select count(*), max(v) from t where id in"
        let list = (0..<200).map(String.init).joined(separator: ",")
        let before = """
            create database d; use d;
            create table t (id int primary key, k int, v varchar(4000), key (k)) engine=innodb;
            insert into t select seq, seq % 100, repeat(char(65 + seq % 26), seq % 4000)
                from seq_1_to_10000;
            select count(*), sum(length(v)) from t;
            create table m (id int primary key, v varchar(4000) character set latin1)
                engine=memory;
            insert into m select id, v from t;
            select count(*), sum(length(v)) from m;
            select count(*) from (select v, count(*) from t group by v order by v) x;

            """
        let after = """
            delete from t where id % 10 <> 0;
            delete from m;
            select count(*), sum(length(v)) from t;
            select count(*) from m;
            drop table m;
            check table t;

            """
        let work =
            before
            + statements(
                prepare: { "prepare s\($0) from '\(selection) (\(list))'" },
                drop: { "deallocate prepare s\($0)" })
            + after
        var comparison = WasteComparison()
        for preloading in Preloading.allCases {
            let directory = try workplace()
            func path(_ name: String) -> String { directory.url.appending(path: name).path() }
            func ask(_ statement: String) async throws -> String {
                try await output(of: [
                    PackageFiles.installed("mariadb") ?? "", "--no-defaults", "--batch",
                    "--skip-column-names", "--user=root", "--socket=\(path("socket"))",
                    "--execute=\(statement)",
                ])
            }
            let user = isRoot ? ["--user=nobody"] : []
            _ = try await output(
                of: [
                    PackageFiles.installed("mariadb-install-db") ?? "", "--no-defaults",
                    "--datadir=\(path("data"))", "--auth-root-authentication-method=normal",
                    "--skip-test-db", "--cross-bootstrap",
                ] + user)
            let server = try Victim.start(
                [
                    PackageFiles.installed("mariadbd") ?? "", "--no-defaults",
                    "--datadir=\(path("data"))", "--socket=\(path("socket"))",
                    "--pid-file=\(path("pid"))", "--skip-networking",
                    "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M",
                    "--innodb-flush-log-at-trx-commit=2", "--max-heap-table-size=256M",
                ] + user, environment: Preloading.environment,
                preloading: try await preloading.libraries(in: directory))
            do {
                try await wait(seconds: 20, for: "MariaDB") {
                    (try? await ask("select 1")) == "1\n"
                }
                try directory.write(work, to: "work.sql")
                let counts = try await ask("source \(path("work.sql"))")
                let expected = "10000\t17997000\n10000\t17997000\n9999\n1000\t1797000\n0\n"
                #expect(counts == expected + "d.t\tcheck\tstatus\tOK\n")
                try comparison.look(at: server.pid, preloading)
                #expect(try await ask("select count(*) from d.t") == "1000\n")
                _ = try await ask("shutdown")
            } catch {
                Issue.record("MariaDB: \(try await server.end(within: .zero))")
                throw error
            }
            let end = try await server.end(within: .seconds(20))
            #expect(end.status == 0, "\(end)")
            #expect(!end.errors.contains("[ERROR]"), "\(end)")
            #expect(end.errors.contains("Shutdown complete"), "\(end)")
            #expect(end.errors.contains("hooks on jemalloc") == (preloading != .jemalloc))
        }
        try comparison.check("MariaDB")
    }

    // MARK: PostgreSQL

    /// Where Debian keeps the programs of the newest version.
    private static let postgres: String? = {
        let versions = "/usr/lib/postgresql"
        let newest = (try? FileManager.default.contentsOfDirectory(atPath: versions))?
            .compactMap { Int($0) }.max()
        guard let newest else { return nil }
        let directory = "\(versions)/\(newest)/bin"
        let isThere = ["postgres", "initdb", "psql", "pgbench", "pg_isready"]
            .allSatisfy { FileManager.default.isExecutableFile(atPath: "\(directory)/\($0)") }
        return isThere ? directory : nil
    }()

    @Test(
        "PostgreSQL and its sessions give their tables back, whatever is preloaded first",
        .enabled(if: Preloading.isPossible, "needs libjemalloc.so.2"),
        .enabled(if: postgres != nil, "needs postgresql"))
    static func postgreSQL() async throws {
        let programs = try #require(postgres)
        let condition = (0..<60).map { "id = \($0)" }.joined(separator: " or ")
        let before = """
            \\set QUIET on
            \\pset tuples_only on
            \\pset format unaligned
            set work_mem = '100MB';
            create table t as select i as id, repeat(chr(65 + i % 26), i % 4000) as v
                from generate_series(1, 10000) i;
            select count(*), sum(length(v)) from t;
            select count(*) from (select v, array_agg(id) from t group by v order by v) x;

            """
        let after = """
            delete from t where id % 10 <> 0;
            select count(*), sum(length(v)) from t;
            select count(*), sum(abalance) = (select sum(delta) from pgbench_history)
                from pgbench_accounts;
            select pg_backend_pid() \\g session
            \\! while [ ! -e go ]; do sleep 0.05; done
            select count(*), sum(length(v)) from t;

            """
        let work =
            before
            + statements(
                prepare: { "prepare s\($0) as select count(*), max(v) from t where \(condition)" },
                drop: { "deallocate s\($0)" })
            + after
        var comparison = WasteComparison()
        for preloading in Preloading.allCases {
            let directory = try workplace()
            let place = directory.url.path()
            let libraries = try await preloading.libraries(in: directory)
            let client = ["--host=\(place)", "--username=admin"]
            func command(_ name: String, _ words: [String]) -> [String] {
                asNobody + ["\(programs)/\(name)"] + words
            }
            _ = try await output(
                of: command(
                    "initdb",
                    [
                        "--pgdata=\(place)/data", "--username=admin", "--auth=trust", "--no-sync",
                        "--no-instructions", "--locale=C", "--encoding=UTF8",
                    ]))
            // Whoever becomes nobody opens the libraries as nobody.
            let server = try Victim.start(
                asNobody + [
                    "/usr/bin/env",
                    "LD_PRELOAD=\(libraries.map { $0.path() }.joined(separator: ":"))",
                    "\(programs)/postgres", "-D", "\(place)/data", "-k", place, "-c",
                    "listen_addresses=", "-c", "fsync=off",
                ], environment: Preloading.environment)
            var session: Victim?
            do {
                try await wait(seconds: 20, for: "PostgreSQL") {
                    (try? await output(
                        of: command("pg_isready", client + ["--dbname=postgres"]))) != nil
                }
                _ = try await output(
                    of: command(
                        "pgbench", client + ["--initialize", "--scale=1", "--quiet", "postgres"]))
                let bench = try await output(
                    of: command(
                        "pgbench",
                        client + ["--client=4", "--jobs=2", "--transactions=500", "postgres"]))
                #expect(bench.contains("actually processed: 2000/2000"), "\(bench)")
                try directory.write(work, to: "work.sql")
                let started = try Victim.start(
                    asNobody + [
                        "/bin/sh", "-c", "cd \"$1\" && shift && exec \"$@\"", "sh", place,
                        "\(programs)/psql",
                    ] + client + [
                        "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file=work.sql", "postgres",
                    ])
                session = started
                try await wait(seconds: 30, for: "the session") { directory.has("session") }
                let text = try String(
                    contentsOf: directory.url.appending(path: "session"), encoding: .utf8)
                let backend = text.trimmingCharacters(in: .whitespacesAndNewlines)
                try comparison.look(at: #require(Int32(backend)), preloading)
                if preloading != .jemalloc {
                    #expect(
                        try StatsPage.read(pid: server.pid).mode == "hooks", "the postmaster")
                }
                try directory.write("go", to: "go")
                let outcome = try await started.end(within: .seconds(20))
                session = nil
                #expect(outcome.status == 0, "\(outcome)")
                let expected = "10000|17997000\n9999\n1000|1797000\n100000|t\n1000|1797000\n"
                #expect(outcome.output == expected, "\(outcome)")
            } catch {
                _ = try await session?.end(within: .zero)
                // Its children would outlive a postmaster that is killed.
                kill(server.pid, SIGQUIT)
                Issue.record("PostgreSQL: \(try await server.end(within: .seconds(5)))")
                throw error
            }
            kill(server.pid, SIGINT)
            let end = try await server.end(within: .seconds(20))
            #expect(end.status == 0, "\(end)")
            // pg_isready may have asked too early.
            let complaints = end.errors.split(separator: "\n").filter {
                $0.contains(/\s(ERROR|FATAL|PANIC|WARNING):/) && !$0.hasSuffix("is starting up")
            }
            #expect(complaints.isEmpty)
            #expect(end.errors.contains("database system is shut down"), "\(end)")
            #expect(end.errors.contains("hooks on jemalloc") == (preloading != .jemalloc))
        }
        try comparison.check("PostgreSQL")
    }
}
