from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        return self._execute_module('ansible.builtin.apt', module_args={'name': self._task.args['name'], 'state':'present','install_recommends':False}, task_vars=task_vars)
