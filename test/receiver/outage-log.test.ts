import { pino } from 'pino';
import { expect, test } from 'vitest';
import { OutageLog } from '../../src/receiver/outage-log.ts';

function makeLog(): { log: OutageLog; told: () => string[] } {
  const lines: string[] = [];
  const logger = pino({ level: 'info', base: null, timestamp: false }, { write: (line) => lines.push(line) });
  return {
    log: new OutageLog(logger),
    told: () => lines.splice(0).map((line) => String(JSON.parse(line).msg)),
  };
}

test('a message is told once, whatever numbers are in it', () => {
  const { log, told } = makeLog();
  for (let pid = 1000; pid < 2000; pid++) {
    log.tell('warn', {}, `replication slot "main" is active for PID ${pid}; trying again in ${pid % 60} s`);
    log.tell('info', {}, `starting log streaming at ${pid.toString(16).toUpperCase()}/1F000000 (timeline 1)`);
  }
  expect(told()).toEqual([
    'replication slot "main" is active for PID 1000; trying again in 40 s',
    'starting log streaming at 3E8/1F000000 (timeline 1)',
  ]);
});

test('another message is news, and so is the same one with another importance', () => {
  const { log, told } = makeLog();
  log.tell('warn', {}, 'connection refused');
  log.tell('warn', {}, 'the database system is starting up');
  log.tell('warn', {}, 'connection refused');
  log.tell('error', {}, 'connection refused');
  expect(told()).toEqual(['connection refused', 'the database system is starting up', 'connection refused']);
});

test('after the outage everything is news again', () => {
  const { log, told } = makeLog();
  log.tell('warn', {}, 'connection refused');
  log.over();
  log.tell('warn', {}, 'connection refused');
  expect(told()).toHaveLength(2);
});
