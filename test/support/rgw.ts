import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { CreateBucketCommand, DeleteBucketCommand, DeleteObjectCommand, PutObjectCommand } from '@aws-sdk/client-s3';
import { isThere } from '../../src/durable/durable-file.ts';
import { until } from './poll.ts';
import { run } from './run.ts';
import { testClient, type S3Keys } from './s3-endpoint.ts';
import { tempParent, tempPrefix } from './temp-dir.ts';

/** The Debian packages; CI installs them. */
export const RGW_PACKAGES = ['radosgw', 'ceph-mon', 'ceph-osd', 'ceph-common'];
const PROGRAMS = ['radosgw', 'radosgw-admin', 'ceph-mon', 'ceph-osd', 'ceph', 'monmaptool'];

export interface RgwOptions {
  /** What the gateway can hold, in bytes; default 4 GiB. They lie in memory. */
  readonly capacity?: number;
}

/**
 * A Ceph RADOS Gateway that keeps everything in memory: one monitor, one OSD,
 * one radosgw, all on 127.0.0.1, all gone with {@link stop}. Or with us: the
 * kernel kills them when this process dies, however it does.
 */
export class Rgw {
  readonly url: string;
  readonly region = 'us-east-1';
  /** May do everything with its buckets. */
  readonly owner: S3Keys = { accessKeyId: 'walwarden', secretAccessKey: 'walwarden-secret' };
  /** A user of the same gateway who may do nothing with them. */
  readonly stranger: S3Keys = { accessKeyId: 'stranger', secretAccessKey: 'stranger-secret' };
  readonly #directory: string;
  readonly #daemons = new Map<string, ChildProcess>();

  private constructor(directory: string, port: number) {
    this.#directory = directory;
    this.url = `http://127.0.0.1:${port}`;
  }

  static async start(options: RgwOptions = {}): Promise<Rgw> {
    await requirePrograms();
    // Ports are looked for and then taken, and others look, too.
    for (let attempt = 1; ; attempt++) {
      const port = await freePortBlock();
      const rgw = new Rgw(await mkdtemp(join(tempParent(), `${tempPrefix()}rgw-`)), port);
      try {
        await rgw.#bringUp(port, options.capacity ?? 4 * 1024 ** 3);
        return rgw;
      } catch (error) {
        await rgw.stop();
        if (attempt === 3) throw error;
      }
    }
  }

  async stop(): Promise<void> {
    // There is nothing to save, and an orderly shutdown takes its time.
    for (const daemon of this.#daemons.values()) daemon.kill('SIGKILL');
    await until('the gateway to end', () => [...this.#daemons.values()].every(hasEnded));
    await rm(this.#directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  }

  /** From now on connections are taken and nothing is answered. */
  pause(): void {
    this.#daemons.get('radosgw')?.kill('SIGSTOP');
  }

  resume(): void {
    this.#daemons.get('radosgw')?.kill('SIGCONT');
  }

  async #bringUp(port: number, capacity: number): Promise<void> {
    const at = (name: string): string => join(this.#directory, name);
    for (const name of ['mon', 'osd', 'run', 'log']) await mkdir(at(name));
    await writeFile(at('ceph.conf'), configuration(this.#directory, port, capacity));
    const map = at('run/monmap');
    await this.#command('monmaptool', ['--create', '--addv', 'a', `v2:127.0.0.1:${port + 1}`, map]);
    await Promise.all([
      this.#command('ceph-mon', ['--mkfs', '-i', 'a', '--monmap', map]),
      this.#command('ceph-osd', ['--mkfs', '-i', '0', '--no-mon-config']),
    ]);
    this.#launch('ceph-mon', ['-i', 'a']);
    await this.#command('ceph', ['osd', 'new', (await readFile(at('osd/fsid'), 'utf8')).trim(), '0']);
    this.#launch('ceph-osd', ['-i', '0']);
    // Waits for the OSD by itself; the first one makes the pools of the users.
    for (const [uid, keys] of Object.entries({ owner: this.owner, stranger: this.stranger })) {
      const { accessKeyId, secretAccessKey } = keys;
      const named = ['--uid', uid, '--display-name', uid, '--access-key', accessKeyId, '--secret-key', secretAccessKey];
      await this.#command('radosgw-admin', ['user', 'create', ...named]);
    }
    this.#launch('radosgw', ['-n', 'client.rgw']);
    await this.#warmUp();
  }

  /** Returns once objects can be stored: the first one makes the pools. */
  async #warmUp(): Promise<void> {
    const client = testClient({ url: this.url, region: this.region, ...this.owner }, { maxAttempts: 1 });
    const target = { Bucket: `warm-up-${randomUUID()}` };
    try {
      await until('the gateway to answer', async () => {
        this.#checkAlive();
        return client.send(new CreateBucketCommand(target)).then(
          () => true,
          () => false,
        );
      });
      await client.send(new PutObjectCommand({ ...target, Key: 'x', Body: 'x' }));
      await client.send(new DeleteObjectCommand({ ...target, Key: 'x' }));
      await client.send(new DeleteBucketCommand(target));
    } finally {
      client.destroy();
    }
  }

  #launch(program: string, args: readonly string[]): void {
    const daemon = spawn('setpriv', ['--pdeathsig', 'KILL', program, '-f', ...this.#withConf(args)], {
      stdio: 'ignore',
    });
    daemon.once('error', () => undefined); // hasEnded tells
    this.#daemons.set(program, daemon);
  }

  async #command(program: string, args: readonly string[]): Promise<void> {
    const { status, stdout, stderr } = await run(program, this.#withConf(args), {});
    if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed (${status}): ${stdout}${stderr}`);
  }

  #withConf(args: readonly string[]): string[] {
    return [...args, '-c', join(this.#directory, 'ceph.conf')];
  }

  #checkAlive(): void {
    for (const [program, daemon] of this.#daemons) {
      if (hasEnded(daemon)) throw new Error(`${program} ended with ${daemon.exitCode ?? daemon.signalCode}`);
    }
  }
}

/** A gateway of its own for `body`. */
export async function withRgw<T>(body: (rgw: Rgw) => Promise<T>, options: RgwOptions = {}): Promise<T> {
  const rgw = await Rgw.start(options);
  try {
    return await body(rgw);
  } finally {
    await rgw.stop();
  }
}

async function requirePrograms(): Promise<void> {
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  const missing: string[] = [];
  for (const program of PROGRAMS) {
    const found = await Promise.all(directories.map((directory) => isThere(join(directory, program))));
    if (!found.includes(true)) missing.push(program);
  }
  if (missing.length === 0) return;
  throw new Error(
    `no Ceph RADOS Gateway to test with (${missing.join(', ')} not found): apt-get install -y --no-install-recommends ${RGW_PACKAGES.join(' ')}`,
  );
}

/** Options of Ceph 16 and later (docs.ceph.com: "Configuration"); it finds everything else out itself. */
function configuration(directory: string, port: number, capacity: number): string {
  const sections = {
    global: {
      fsid: randomUUID(),
      mon_host: `v2:127.0.0.1:${port + 1}`,
      public_addr: '127.0.0.1',
      cluster_addr: '127.0.0.1',
      ms_bind_msgr1: 'false',
      ms_bind_port_min: port + 2,
      ms_bind_port_max: port + BLOCK - 1,
      // Nobody else can connect, and keys would only take time. "none" is refused over the default, encrypted mode.
      auth_cluster_required: 'none',
      auth_service_required: 'none',
      auth_client_required: 'none',
      ms_mon_client_mode: 'crc',
      run_dir: join(directory, 'run'),
      crash_dir: join(directory, 'run'),
      log_file: join(directory, 'log/$name.log'),
    },
    mon: {
      mon_data: join(directory, 'mon'),
      mon_cluster_log_file: join(directory, 'log/cluster.log'),
      mon_data_avail_crit: 0,
      mon_allow_pool_size_one: 'true',
      mon_warn_on_pool_no_redundancy: 'false',
      osd_pool_default_size: 1,
      osd_pool_default_pg_num: 4,
      // Each of the gateway's pools takes several changes of the map, a second apart by default.
      paxos_propose_interval: 0.02,
    },
    osd: {
      osd_data: join(directory, 'osd'),
      osd_objectstore: 'memstore',
      // It calls itself full early, and counts copies that it hasn't made yet.
      memstore_device_bytes: 2 * capacity,
    },
    client: {
      rgw_data: join(directory, 'run'),
      rgw_frontends: `beast endpoint=127.0.0.1:${port}`,
      rgw_enable_apis: 's3',
      // Deleted objects give their memory back after seconds, not hours.
      rgw_gc_obj_min_wait: 5,
      rgw_gc_processor_period: 5,
    },
  };
  return Object.entries(sections)
    .map(([name, options]) => {
      const lines = Object.entries(options).map(([option, value]) => `${option} = ${value}\n`);
      return `[${name}]\n${lines.join('')}`;
    })
    .join('');
}

/** Ports in a row: of the gateway, of the monitor, and of the OSD's messengers. */
const BLOCK = 10;

async function freePortBlock(): Promise<number> {
  for (;;) {
    // Below the range from which the kernel gives ports to clients.
    const first = 20_000 + BLOCK * Math.floor(Math.random() * 1_200);
    const free = await Promise.all(Array.from({ length: BLOCK }, (_, index) => canListen(first + index)));
    if (!free.includes(false)) return first;
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
